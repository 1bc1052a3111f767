// What is looked at, kept in the address: the back button works, and an address can be sent to somebody.

export const FIRST = 24;
export const MOST = 96; // the server gives no more than 100
export const RERANKED = 32;
export const FILTERS = ["label", "split", "path", "after", "before"];

/** Return what the address asks for. Models that are not named there: an empty list, which means the usual ones. */
export function read(search = location.search) {
  const given = new URLSearchParams(search);
  const state = { q: given.get("q") ?? "", models: given.getAll("model"), upload: given.get("upload") ?? "" };
  for (const name of FILTERS) state[name] = given.get(name) ?? "";
  // A window has a number in one edition of the index of one model.
  for (const name of ["like", "of", "edition"]) state[name] = given.get(name) ?? "";
  state.rerank = given.has("rerank");
  state.any = given.has("any");
  state.k = Math.min(MOST, Math.max(1, Math.floor(Number(given.get("k"))) || FIRST));
  return state;
}

/** Return the address of a state, without what is as usual. */
export function write(state) {
  const given = new URLSearchParams();
  for (const name of ["q", "like", "of", "edition", "upload", ...FILTERS]) if (state[name]) given.set(name, state[name]);
  for (const name of state.models) given.append("model", name);
  if (state.rerank) given.set("rerank", "1");
  if (state.k !== FIRST) given.set("k", String(state.k));
  if (state.any) given.set("any", "1");
  const text = given.toString();
  return text ? `?${text}` : location.pathname;
}

/** Return the state of a new search with the settings of an old one. */
export function anew(state, changed) {
  return { ...state, q: "", like: "", of: "", edition: "", upload: "", k: FIRST, any: false, ...changed };
}

/** Return the filters of a state as the server takes them: its last day is not among those searched, a person's is. */
export function filters(state) {
  const wanted = Object.fromEntries(FILTERS.map((name) => [name, state[name]]));
  if (Date.parse(wanted.before))
    wanted.before = new Date(Date.parse(wanted.before) + 24 * 3600 * 1000).toISOString().slice(0, 10);
  return wanted;
}
