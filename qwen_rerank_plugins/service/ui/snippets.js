/**
 * The input as something to run or to open elsewhere: a command, a program, a link. Loaded when one is first copied.
 */

import { copy } from "./clipboard.js";
import { byId } from "./dom.js";
import { t } from "./i18n.js";
import { tell } from "./inputs.js";
import { missingField, taskOf } from "./run.js";
import { wellFormed } from "./text.js";

/** @typedef {"curl" | "python" | "langchain" | "llamaindex" | "link"} Kind */
/**
 * @typedef {object} Source
 * @property {import("./run.js").Task} task
 * @property {number} minScore the threshold of the shown results; 0 for none
 * @property {boolean} hasKey whether the service asks for a key, which is never copied itself
 * @property {import("./api.js").Limits} limits
 */

/** Longer addresses are cut or refused by some browsers, Safari among them. */
const LONGEST_LINK = 64_000;
/** What cannot be seen in a terminal or an editor, or changes the order of what is seen. */
const UNSEEN = /[\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;
const KEY_NAME = "QWEN_RERANK_API_KEY";

/**
 * Copy the input, and report it below the documents.
 * @param {Kind} kind
 * @param {Omit<Source, "task"> & {input: import("./state.js").Input}} options
 */
export async function copyAs(kind, { input, ...options }) {
  const task = taskOf(input);
  const missing = missingField(task);
  if (missing) {
    tell(t(missing.message));
    return byId(missing.id).focus();
  }
  const text = WRITERS[kind]({ task, ...options });
  if (kind === "link" && text.length > LONGEST_LINK) return tell(t("linkTooLong", { n: text.length, most: LONGEST_LINK }));
  if (kind === "curl" && !fitsOneRequest(task, text, options.limits)) return tell(t("curlTooLarge"));
  const isCopied = await copy({ "text/plain": text });
  return tell(t(isCopied ? (kind === "link" ? "linkCopied" : "snippetCopied") : "notCopied", { n: text.length }));
}

/**
 * @param {import("./run.js").Task} task
 * @param {string} command
 * @param {import("./api.js").Limits} limits
 */
function fitsOneRequest({ documents }, command, { max_documents = Infinity, max_body_bytes = Infinity }) {
  return documents.length <= max_documents && new Blob([command]).size <= max_body_bytes;
}

/** @type {Record<Kind, (source: Source) => string>} */
const WRITERS = {
  curl: ({ task, minScore, hasKey }) => {
    const fields = [
      ["query", quoted(task.query)],
      ...(task.instruction ? [["instruction", quoted(task.instruction)]] : []),
      ...(minScore ? [["min_score", String(minScore)]] : []),
      ["documents", `[\n    ${task.documents.map(quoted).join(",\n    ")}\n  ]`],
    ];
    const key = hasKey ? [`  -H "Authorization: Bearer $${KEY_NAME}" \\`] : [];
    return [
      `curl -s '${address()}/v1/rerank' \\`,
      "  -H 'Content-Type: application/json' \\",
      ...key,
      // A quoted here-document is read as it is, and may be longer than an argument.
      "  --data-binary @- <<'JSON'",
      `{\n${fields.map(([name, value]) => `  "${name}": ${value}`).join(",\n")}\n}`,
      "JSON\n",
    ].join("\n");
  },
  python: (source) =>
    program(source, ["from qwen_rerank_plugins import Reranker"], [
      `with Reranker(${settings(source)}) as reranker:`,
      "    for ranked in reranker.rank(query, documents).results:",
      '        print(f"{ranked.relevance_score:.4f}", ranked.document)',
    ]),
  langchain: (source) =>
    program(source, ["from langchain_core.documents import Document", "from langchain_qwen_rerank import QwenRerank"], [
      `with QwenRerank(${settings(source)}) as compressor:`,
      "    for document in compressor.compress_documents([Document(text) for text in documents], query):",
      `        print(f"{document.metadata['relevance_score']:.4f}", document.page_content)`,
    ]),
  llamaindex: (source) =>
    program(source, ["from llama_index.core.schema import NodeWithScore, TextNode", "from llama_index.postprocessor.qwen_rerank import QwenRerank"], [
      "nodes = [NodeWithScore(node=TextNode(text=text)) for text in documents]",
      `with QwenRerank(${settings(source)}) as postprocessor:`,
      "    for node in postprocessor.postprocess_nodes(nodes, query_str=query):",
      '        print(f"{node.score:.4f}", node.text)',
    ]),
  link: ({ task }) => {
    const fields = [
      ["query", task.query],
      ...(task.instruction || task.second !== null ? [["instruction", task.instruction]] : []),
      ...(task.second === null ? [] : [["instruction", task.second]]),
      ...task.documents.map((text) => ["document", text]),
    ];
    return `${address()}/#${new URLSearchParams(fields)}`;
  },
};

/**
 * @param {Source} source
 * @param {string[]} imports
 * @param {string[]} lines
 */
function program({ task, hasKey }, imports, lines) {
  return [
    ...(hasKey ? [`# The key is read from the environment variable ${KEY_NAME}.`] : []),
    ...imports,
    "",
    `query = ${quoted(task.query)}`,
    `documents = [\n    ${task.documents.map(quoted).join(",\n    ")},\n]`,
    ...lines,
    "",
  ].join("\n");
}

/** @param {Source} source */
function settings({ task, minScore, hasKey, limits }) {
  const most = limits.max_documents ?? Infinity;
  return [
    'backend="remote"',
    `base_url=${quoted(address())}`,
    ...(task.instruction ? [`instruction=${quoted(task.instruction)}`] : []),
    ...(minScore ? [`min_score=${minScore}`] : []),
    ...(hasKey ? [`api_key_env="${KEY_NAME}"`] : []),
    ...(task.documents.length > most ? [`max_batch_documents=${most}`] : []),
  ].join(", ");
}

/**
 * A string literal of JSON, and of Python, where its escapes mean the same.
 * @param {string} text
 */
function quoted(text) {
  return JSON.stringify(wellFormed(text)).replace(UNSEEN, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** The service's address, fit for single quotes in a shell. */
function address() {
  return new URL(".", location.href).href.replace(/\/$/, "").replaceAll("'", "%27");
}
