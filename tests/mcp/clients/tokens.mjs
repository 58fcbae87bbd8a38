// Counts tokens in the o200k encoding: {name: text} in a file in, {name: tokens} out.
import { readFileSync } from "node:fs";
import { getEncoding } from "js-tiktoken";

const encoding = getEncoding("o200k_base");
const texts = Object.entries(JSON.parse(readFileSync(process.argv[2], "utf8")));
console.log(JSON.stringify(Object.fromEntries(texts.map(([name, text]) => [name, encoding.encode(text, [], []).length]))));
