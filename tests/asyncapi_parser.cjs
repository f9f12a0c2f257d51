// Parse the AsyncAPI document on standard input with the public parser, and fail on any error or warning.
// Usage: homing asyncapi | node tests/asyncapi_parser.cjs BUNDLE, which is browser/index.js of @asyncapi/parser
globalThis.self = globalThis; // the bundle expects a browser
const Parser = require(require("node:path").resolve(process.argv[2]));
const WARNING = 1;

new Parser().parse(require("node:fs").readFileSync(0, "utf8")).then(({ document, diagnostics }) => {
  const faults = diagnostics.filter((each) => each.severity <= WARNING);
  for (const each of faults) console.error(`${each.path.join(".")}: ${each.message} (${each.code})`);
  process.exitCode = document !== undefined && faults.length === 0 ? 0 : 1;
});
