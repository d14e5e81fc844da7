// Documents as texts: read from what was pasted or dropped, as `resift rerank` reads files.

const LARGEST = 64 << 20; // bytes of a file

export class Fault extends Error {
  // What the user has to mend; `field` is the id of where.
  constructor(message, field) {
    super(message);
    this.field = field;
  }
}

// The documents in `text`; the query, if it is a candidate pool; and how many pools there are, of which the first is read.
export function readDocuments(text) {
  const rows = text.split("\n").map((line, place) => ({ line: line.replace(/\r+$/, ""), number: place + 1 }));
  const lines = rows.filter(({ line }) => /[^ \t\v\f]/.test(line));
  if (!lines.length || !lines[0].line.trimStart().startsWith("{")) {
    return { documents: lines.map(({ line }) => line), pools: 0 };
  }
  const first = readObject(lines[0]);
  if ("documents" in first || "candidates" in first) {
    return { ...readPool(first, lines[0].number), pools: lines.length };
  }
  return { documents: lines.map((row) => readText(readObject(row), `line ${row.number}`)), pools: 0 };
}

function readObject({ line, number }) {
  let row;
  try {
    row = JSON.parse(line);
  } catch (error) {
    throw new Fault(`Line ${number} is not JSON: ${error.message}. As the first line begins with {, each line must be a JSON object.`);
  }
  if (typeof row !== "object" || row === null || Array.isArray(row)) {
    throw new Fault(`Line ${number} is not a JSON object; expected one on each line.`);
  }
  return row;
}

function readPool(pool, number) {
  const items = pool.documents ?? pool.candidates;
  if (!Array.isArray(items) || typeof pool.query !== "string") {
    throw new Fault(`Line ${number} is not a candidate pool; expected {"query": "...", "documents": ["...", ...]}.`);
  }
  const where = (place) => `line ${number}, document ${place + 1}`;
  return { query: pool.query, documents: items.map((item, place) => readText(item, where(place))) };
}

function readText(item, where) {
  const text = typeof item === "string" ? item : item?.text;
  if (typeof text !== "string") {
    throw new Fault(`No text in ${where}; expected {"text": "..."}.`);
  }
  return text;
}

export async function readFile(file) {
  if (file.size > LARGEST) {
    throw new Fault(`${file.name} has ${file.size >> 20} MiB; expected at most ${LARGEST >> 20}. Use resift rerank for large files.`);
  }
  const bytes = new Uint8Array(await file.arrayBuffer());
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    if (!text.includes("\0")) return text;
  } catch {
    // not UTF-8: refused below
  }
  throw new Fault(`${file.name} is not UTF-8 text; expected a file of lines. Decompress or convert it first.`);
}
