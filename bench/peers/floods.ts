/** Sends what its host takes, and never stops. */
import { send } from "caisson/actor";

export async function flood(): Promise<never> {
  for (let count = 0; ; count++) await send({ count, text: "as short as most are", list: [1, 2, 3] });
}
