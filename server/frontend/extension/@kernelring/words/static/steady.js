/* What runs in the server is followed from the page, whatever becomes of the worker that the page asks.
 *
 * jupyter-server-nbmodel asks for each cell that runs and takes the first question that fails for the cell's end. So
 * the `fetch` of the page's connection repeats what fails because nobody answers just now; other requests it leaves
 * alone. A repeated POST does no harm: the id in its body tells the server that it is the same one again.
 */

const RUN = /\/api\/kernels\/[^/]+\/(execute|input|requests\/[^/?]+)(\?|$)/;
const FIRST_MS = 100; // before the second try; each wait after that is twice as long
const LONGEST_MS = 2000;
const PATIENCE_MS = 60_000; // for a POST: somebody waits to see that it has begun
const NOBODY = [502, 503, 504]; // a worker whose owner is away; the proxy of a server that starts
const LOGGED_OUT = [401, 403]; // to a question: it is answered once its reader has logged in again, in any tab

/** The plugin. `shared` gives the page's own modules by name. */
export async function plugins(shared) {
  const { UUID } = await shared("@lumino/coreutils");
  return [
    {
      id: "@kernelring/words:steady",
      description: "Repeats what a cell that runs asks of the server while that is away.",
      autoStart: true,
      activate: (app) => {
        const settings = app.serviceManager.serverSettings;
        settings.fetch = steady(settings.fetch, UUID.uuid4);
      },
    },
  ];
}

function steady(fetch, uuid) {
  let answers = Promise.resolve();
  return async (asked, init) => {
    const run = RUN.exec(asked?.url ?? "");
    if (!run) return fetch(asked, init);
    const request = await named(asked, uuid);
    if (run[1] !== "input") return persist(fetch, request);
    // One after another: an answer that comes late must not be taken for that to the next question.
    const answer = answers.then(() => persist(fetch, request));
    answers = answer.catch(() => undefined); // its sender is told
    return answer;
  };
}

/** The request with an id in its body, by which the server knows it again. */
async function named(request, uuid) {
  if (request.method !== "POST") return request;
  const body = { request_id: uuid(), ...(await request.json()) };
  return new Request(request, { body: JSON.stringify(body) });
}

/* A question is repeated as long as the page is there, which says meanwhile what is the matter (words.js). Time is
 * counted by what was waited: a lid that is closed for an hour does not count. */
async function persist(fetch, request) {
  const isQuestion = request.method === "GET";
  const passing = isQuestion ? [...NOBODY, ...LOGGED_OUT] : NOBODY;
  let pause = FIRST_MS;
  for (let waited = 0; ; waited += pause, pause = Math.min(2 * pause, LONGEST_MS)) {
    const isLast = request.signal.aborted || (!isQuestion && waited >= PATIENCE_MS);
    try {
      const response = await whole(await fetch(request.clone()));
      if (isLast || !passing.includes(response.status)) return response;
    } catch (error) {
      if (isLast) throw error;
    }
    await new Promise((resume) => setTimeout(resume, pause));
  }
}

/** The response, once all of it is here: it can break off in its midst, too. */
async function whole(response) {
  await response.clone().arrayBuffer();
  return response;
}
