// A call of the API as a command and as a program, whatever its texts hold. Neither contains the API key.

const KEY_VARIABLE = "RESIFT_SERVE_API_KEY";

// JSON that is also a Python literal. What cannot be seen or could reorder a line is escaped.
function quote(text) {
  const escape = (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return JSON.stringify(text).replace(/[\u007f-\u00a0\u00ad\u061c\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff]/g, escape);
}

function literal(value, words) {
  if (Array.isArray(value)) return `[\n${value.map((item) => `    ${literal(item, words)}`).join(",\n")}\n  ]`;
  return typeof value === "boolean" ? words[value] : quote(value);
}

function fields(body, words) {
  return `{\n${Object.entries(body).map(([name, value]) => `  "${name}": ${literal(value, words)}`).join(",\n")}\n}`;
}

// The body is a here-document: an argument may not be longer than 128 KiB. Some shells look for ! even there.
export function asCurl(url, body, keyed) {
  const json = fields(body, { true: "true", false: "false" }).replaceAll("!", "\\u0021");
  const key = keyed ? ` \\\n  -H "Authorization: Bearer $${KEY_VARIABLE}"` : "";
  return `curl -sS '${url.replaceAll("'", "'\\''")}' \\\n  -H 'Content-Type: application/json'${key} \\\n  --data-binary @- <<'JSON'\n${json}\nJSON\n`;
}

export function asPython(url, body, keyed) {
  const key = keyed ? `headers["Authorization"] = "Bearer " + os.environ["${KEY_VARIABLE}"]\n` : "";
  return `import json
${keyed ? "import os\n" : ""}import urllib.request

headers = {"Content-Type": "application/json"}
${key}body = ${fields(body, { true: "True", false: "False" })}
request = urllib.request.Request(${quote(url)}, json.dumps(body).encode(), headers)
with urllib.request.urlopen(request) as response:
    for result in json.load(response):
        print(result["index"], result["score"])
`;
}
