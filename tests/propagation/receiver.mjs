// What the speed of telling is measured against: a recipient that takes whatever it is sent, as fast as it can.
// Prints its port, and then, on each line of input, how many requests and subjects it has taken.
import { createServer } from "node:http";
import { createInterface } from "node:readline";

let requests = 0;
let bytes = 0;
const server = createServer((request, response) => {
  request.on("data", (part) => (bytes += part.length));
  request.on("end", () => {
    requests += 1;
    response.writeHead(204).end();
  });
});
server.keepAliveTimeout = 60_000;
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
createInterface({ input: process.stdin }).on("line", () => console.log(`${requests} ${bytes}`));
