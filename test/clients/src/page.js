// What the test drives: Cloudflare's clients as their packages have them, with nothing of Skein in between.
import { AgentClient, agentFetch } from "agents/client";
import { useAgent } from "agents/react";
import { createElement } from "react";
import { createRoot } from "react-dom/client";

window.seen = [];
window.agentFetch = agentFetch;

/** Notes what becomes of a promise, whenever that is. */
window.follow = (name, promise) => {
  promise.then(
    (result) => seen.push(`${name} = ${JSON.stringify(result)}`),
    (error) => seen.push(`${name} ! ${error.message}`),
  );
};

const noting = (options) => ({
  agent: "HTTPRoom",
  name: "jo",
  host: location.host,
  onStateUpdate: (state, source) => seen.push(`state ${JSON.stringify(state)} ${source}`),
  onStateUpdateError: (error) => seen.push(`refused ${error}`),
  onIdentity: (name, agent) => seen.push(`identity ${name} ${agent}`),
  onConnectionError: (error) => seen.push(`final ${error.code} ${error.message}`),
  ...options,
});

/** Connects an AgentClient. */
window.connect = (options) => {
  window.agent = new AgentClient(noting(options));
  agent.addEventListener("close", (e) => seen.push(`close ${e.code} ${e.reason}`));
  agent.addEventListener("message", (e) => {
    if (!/^\{"type":"(cf_|rpc)/.test(e.data)) seen.push(`message ${e.data}`);
  });
};

/** Mounts a component that lives from useAgent and shows the state. */
window.mount = (options) => {
  function Room() {
    window.hook = useAgent(noting({
      onClose: (e) => seen.push(`close ${e.code} ${e.reason}`),
      ...options,
    }));
    return createElement("p", { id: "room" }, `${hook.identified ? hook.name : "nowhere"}: ${hook.state ? hook.state.n : "none"}`);
  }
  window.root = createRoot(document.body.appendChild(document.createElement("div")));
  root.render(createElement(Room));
};
