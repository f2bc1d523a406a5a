# Right, if one had the memory.
numbers = []
for i in range(1, int(input()) + 1):
    numbers.append(i)
print(sum(numbers))
