/** Programs that are watched, and refused nothing. */
import type { Descriptor } from "../../../syscalls/descriptor.ts";
import { machine } from "../../../syscalls/kernel.ts";
import type { ContainerPlan, Observed, ProcessPlan, Supervision } from "../../platform.ts";
import { execute } from "../container.ts";
import { watching } from "./handover.ts";
import { superviseListener, type Watch } from "./supervisor.ts";

/** Starts one program in a container of its own, and tells of each call that names something. */
export async function observe(
  container: ContainerPlan,
  process: ProcessPlan,
  supervision: Supervision,
): Promise<Observed> {
  const { filter, orders } = watching(machine());
  let watch: Watch | undefined;
  const supervise = (listener: Descriptor) => {
    watch = superviseListener(listener, orders, supervision);
  };
  const running = await execute(container, { ...process, supervised: filter }, { supervise });
  return Object.assign(running, { told: async () => watch?.over });
}
