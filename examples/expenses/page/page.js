// The page of a board. All that it shows is the state of one agent, which every browser with this page has; what a person does goes to
// the agent as a call or a message and comes back as another state. Text is set as text, never as HTML.

import { AgentClient } from "/skein.js";

const $ = (id) => document.getElementById(id);
const team = new URLSearchParams(location.search).get("team") || "everyone";
const money = new Intl.NumberFormat(undefined, { style: "currency", currency: "EUR" });
const names = {
  unsent: "Sending", checking: "Checking", waiting: "Needs approval", paying: "Paying", paid: "Paid", rejected: "Rejected", failed: "Refused",
};

const offline = "There is no connection. It comes back by itself.";

/** What was submitted here and is not on the board yet, by id. It is sent again on a new connection: the board takes each id once. */
const pending = new Map();
/** The elements of the list, by id of the expense. */
const cards = new Map();

const agent = new AgentClient({
  agent: "expenses-board",
  name: team,
  onStateUpdate: (state) => {
    for (const { id } of state.expenses) pending.delete(id);
    showConnection("live", "Live");
    render();
  },
  onIdentity: () => {
    for (const claim of pending.values()) {
      if (claim.isSent) agent.send(JSON.stringify({ submit: claim }));
      claim.isSent = true; // by the client, which had kept it
    }
  },
  onMessage: ({ data }) => hear(JSON.parse(data)),
  onClose: ({ reason }) => showConnection("reconnecting", "Reconnecting…", reason),
  onConnectionError: (error) => {
    showConnection("closed", "Closed");
    fail(`${error.message}. Reload the page to come back.`);
  },
});

// What comes from the agent.

function hear({ news, refused }) {
  if (news) say($("news"), `${news.by}, ${news.what}, ${money.format(news.cents / 100)}: ${(names[news.status] ?? news.status).toLowerCase()}`);
  if (!refused) return;
  const claim = pending.get(refused.id);
  pending.delete(refused.id);
  render();
  fail(`${claim ? `“${claim.what}” was not taken: ` : ""}${refused.reason}.`);
}

function showConnection(state, text, title = "") {
  const pill = $("connection");
  if (pill.dataset.state === state) return;
  pill.dataset.state = state;
  pill.textContent = text;
  pill.title = title;
  if (state === "live" && $("alert").textContent === offline) fail("");
  render();
}

const isLive = () => $("connection").dataset.state === "live";

function render() {
  const state = agent.state ?? { title: "Expenses", here: 0, expenses: [] };
  document.title = `${state.title} · ${team}`;
  $("team").textContent = team;
  $("title").textContent = state.title;
  $("here").textContent = isLive() ? `${state.here} ${state.here === 1 ? "page" : "pages"} open` : "";
  $("rename").setAttribute("aria-disabled", String(!isLive()));
  const unsent = [...pending.values()].map((claim) => ({
    ...claim, status: "unsent", percent: 0, note: isLive() ? "On its way" : "Kept here until the connection is back",
  }));
  renderList([...state.expenses, ...unsent].reverse());
  const waiting = state.expenses.filter(({ status }) => status === "waiting").length;
  const paid = state.expenses.filter(({ status }) => status === "paid").reduce((sum, { cents }) => sum + cents, 0);
  $("summary").textContent = state.expenses.length ? `${waiting} to approve · ${money.format(paid / 100)} paid` : "";
  $("empty").hidden = !isLive() || state.expenses.length + unsent.length > 0;
}

function renderList(expenses) {
  const list = $("list");
  const hadFocus = list.contains(document.activeElement);
  const gone = new Set(cards.keys());
  expenses.forEach((expense, i) => {
    gone.delete(expense.id);
    const card = cards.get(expense.id) ?? newCard(expense.id);
    fill(card, expense);
    if (list.children[i] !== card) list.insertBefore(card, list.children[i] ?? null);
  });
  for (const id of gone) {
    cards.get(id).remove();
    cards.delete(id);
  }
  if (hadFocus && !list.contains(document.activeElement)) $("list-title").focus();
}

function newCard(id) {
  const card = $("card").content.firstElementChild.cloneNode(true);
  card.dataset.id = id;
  cards.set(id, card);
  return card;
}

function fill(card, { what, by, cents, status, percent, note }) {
  const part = (selector) => card.querySelector(selector);
  const button = (name) => part(`[data-do="${name}"]`);
  const isOver = ["paid", "rejected", "failed"].includes(status);
  card.dataset.status = status;
  part(".what").textContent = what;
  part(".amount").textContent = money.format(cents / 100);
  part(".by").textContent = by;
  part(".status").textContent = names[status] ?? status;
  part(".note").textContent = note;
  part("progress").value = percent;
  part("progress").hidden = isOver || status === "unsent";
  part("progress").setAttribute("aria-label", `Progress of ${what}`);
  const hadFocus = card.contains(document.activeElement);
  button("approve").hidden = button("reject").hidden = status !== "waiting";
  button("remove").hidden = status === "unsent" || status === "paying";
  button("remove").textContent = isOver ? "Remove" : "Withdraw";
  for (const one of card.querySelectorAll("button")) {
    one.setAttribute("aria-label", `${one.textContent} ${what}`);
    one.setAttribute("aria-disabled", String(!isLive() || one.dataset.busy === "yes"));
  }
  if (hadFocus && document.activeElement?.hidden) card.focus(); // else the keyboard would start at the top again
}

// What a person does.

$("submit").addEventListener("submit", (event) => {
  event.preventDefault();
  const { what, amount, by } = event.target.elements;
  const claim = { id: newID(), what: what.value.trim(), by: by.value.trim(), cents: Math.round(Number(amount.value) * 100) };
  try {
    pending.set(claim.id, claim);
    claim.isSent = agent.send(JSON.stringify({ submit: claim }));
  } catch (error) {
    pending.delete(claim.id);
    return fail(error.message);
  }
  localStorage.setItem("name", claim.by);
  what.value = amount.value = "";
  what.focus();
  fail("");
  render();
});

$("list").addEventListener("click", async ({ target }) => {
  const button = target.closest("[data-do]");
  if (!button) return;
  const { id } = button.closest("li").dataset;
  const by = $("submit").elements.by;
  switch (button.dataset.do) {
    case "approve":
      return signed(by) && call(button, "approve", id, by.value.trim());
    case "reject": {
      if (!signed(by) || !ready(button)) return;
      const reason = await ask("Why is it rejected?", "Reject", "danger", "", 120);
      return reason !== null && call(button, "reject", id, by.value.trim(), reason);
    }
    case "remove":
      return call(button, "remove", id);
  }
});

$("rename").addEventListener("click", async ({ target }) => {
  if (!ready(target)) return;
  const title = await ask("Title of the board", "Rename", "primary", agent.state.title, 40);
  if (title !== null) await call(target, "rename", title);
});

/** Who decides has a name. */
function signed(by) {
  if (by.value.trim()) return true;
  fail("Say who you are first.");
  by.focus();
  return false;
}

function ready(button) {
  if (button.dataset.busy === "yes") return false;
  if (!isLive()) fail(offline);
  return isLive();
}

/** Calls a method of the agent. What comes of it is in the state. */
async function call(button, method, ...args) {
  if (!ready(button)) return;
  button.dataset.busy = "yes";
  button.setAttribute("aria-disabled", "true");
  try {
    await agent.call(method, args);
    fail("");
  } catch (error) {
    fail(error.outcome === "unknown" ? "The connection broke off. Look whether it has worked." : `${error.message}.`);
  } finally {
    delete button.dataset.busy;
    render();
  }
}

/** Asks for a text; null if there is none. */
function ask(question, yes, kind, text, most) {
  const dialog = $("ask");
  const { elements } = dialog.querySelector("form");
  $("ask-label").textContent = question;
  elements.text.value = text;
  elements.text.maxLength = most;
  const button = dialog.querySelector('[value="yes"]');
  button.textContent = yes;
  button.className = kind;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes" ? elements.text.value : null), { once: true });
  });
}

$("ask").querySelector('[value="no"]').addEventListener("click", () => $("ask").close());

// What the page says.

/** Says something for some seconds. */
function say(where, text) {
  clearTimeout(where.timer);
  where.textContent = text;
  where.timer = setTimeout(() => { where.textContent = ""; }, 6_000);
}

/** Says what went wrong, as a sentence, until something goes well. */
function fail(text) { $("alert").textContent = text.charAt(0).toUpperCase() + text.slice(1); }

$("close-alert").addEventListener("click", () => fail(""));

/** crypto.randomUUID is not there on pages without TLS, such as those that a phone sees while you try this. */
function newID() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");
}

$("submit").elements.by.value = localStorage.getItem("name") ?? "";
render();
