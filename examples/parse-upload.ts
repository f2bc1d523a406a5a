/** Fragile code on untrusted input, as `parse.ts`, for bytes that somebody uploaded. `supervised-server.ts` runs it in a pool of actors. */
import { extractText, getDocumentProxy } from "unpdf";

export async function parse(pdf: Uint8Array) {
  try {
    const { text, totalPages } = await extractText(await getDocumentProxy(pdf), { mergePages: true });
    return { totalPages, text };
  } catch (error) {
    // Who has been at the end of its memory has little left for the next document: the pool starts another.
    if (error instanceof Error && /out of memory/i.test(error.message)) process.exit(1);
    throw error;
  }
}
