-- Of wrk(1): uploads these files in turn and says when so many answers came. At its end, as SIGINT brings it, it says as JSON how often each status was
-- among them and what got none.
-- wrk ... -s load.lua URL -- ANSWERS FILE...
local threads = {}

function setup(thread) table.insert(threads, thread) end

function init(arguments)
  bodies, sent, answers, most = {}, 0, 0, tonumber(table.remove(arguments, 1))
  good, refused, other = 0, 0, 0
  for index, path in ipairs(arguments) do
    local file = assert(io.open(path, "rb"))
    bodies[index] = file:read("*a")
    file:close()
  end
end

function request()
  sent = sent + 1
  return wrk.format("POST", "/", nil, bodies[sent % #bodies + 1])
end

function response(status)
  if status == 200 then good = good + 1 elseif status == 422 then refused = refused + 1 else other = other + 1 end
  answers = answers + 1
  if answers == most then io.stderr:write("enough\n") end
end

function done(summary)
  local counts = { good = 0, refused = 0, other = 0, lost = 0 }
  for _, thread in ipairs(threads) do
    for _, name in ipairs({ "good", "refused", "other" }) do counts[name] = counts[name] + thread:get(name) end
  end
  for _, name in ipairs({ "connect", "read", "write", "timeout" }) do counts.lost = counts.lost + summary.errors[name] end
  io.stderr:write(string.format('{"good":%d,"refused":%d,"other":%d,"lost":%d}\n', counts.good, counts.refused, counts.other, counts.lost))
end
