/* Of two tabs that save one file, neither overwrites what the other has just saved.
 *
 * The front end asks for the hash of what is on disk, compares it with the one that it knows, saves, and asks for the
 * hash of what it has saved. Between these requests somebody else may save, too. So the `fetch` of the page's connection
 * tells the server which version a save replaces; and the hash that is asked for after it is what the save answered.
 * A save that is refused is told as any that fails. The next one finds the other version, and asks its user.
 */

/** The plugin. */
export async function plugins() {
  return [
    {
      id: "@kernelring/words:versions",
      description: "Saves a file only over the version that was compared.",
      autoStart: true,
      activate: (app) => {
        const settings = app.serviceManager.serverSettings;
        settings.fetch = exactly(settings.fetch);
      },
    },
  ];
}

function exactly(fetch) {
  const compared = new Map(); // by path: the hash that was compared last
  const saved = new Map(); // by path: the model that a save has answered, until it is asked for
  return async (asked, init) => {
    const url = new URL(asked?.url ?? "about:blank");
    const path = url.pathname;
    if (!path.includes("/api/contents/")) return fetch(asked, init);
    if (asked.method === "PUT" && compared.has(path)) {
      url.searchParams.set("replaces", compared.get(path));
      compared.delete(path);
      const { method, headers, credentials, signal } = asked;
      const request = new Request(url, { method, headers, credentials, signal, body: await asked.blob() });
      const response = await fetch(request, init);
      if (response.ok) saved.set(path, await response.clone().json());
      return response;
    }
    if (asked.method !== "GET" || url.searchParams.get("content") !== "0" || !url.searchParams.has("hash"))
      return fetch(asked, init);
    if (saved.has(path)) {
      const model = saved.get(path);
      saved.delete(path);
      if (model.hash) compared.set(path, model.hash); // who overwrites on purpose asks only when saving the next time
      return Response.json(model);
    }
    const response = await fetch(asked, init);
    const { hash } = response.ok ? await response.clone().json() : {};
    if (hash) compared.set(path, hash);
    return response;
  };
}
