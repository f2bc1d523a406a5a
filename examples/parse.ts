/** Fragile code on untrusted input: extracts the text of a PDF with a parser from npm. `parse-untrusted.ts` runs it as an actor. */

import type { FileCapability } from "caisson/actor";
import { extractText, getDocumentProxy } from "unpdf";

export async function parse(pdf: FileCapability) {
  const { text, totalPages } = await extractText(await getDocumentProxy(await pdf.bytes()), { mergePages: true });
  return { totalPages, text };
}
