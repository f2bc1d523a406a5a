// Writes sandbox.json out of the schema by which sandboxes are checked: `bun schemas/generate.ts`.
import { writeFileSync } from "node:fs";
import { SCHEMA } from "../src/sandbox.ts";

/** The text of sandbox.json. */
export const text = `${JSON.stringify({ $schema: "https://json-schema.org/draft/2020-12/schema", ...SCHEMA }, null, 2)}\n`;

if (import.meta.main) writeFileSync(new URL("sandbox.json", import.meta.url), text);
