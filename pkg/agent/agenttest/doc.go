// Package agenttest tests agents as they run in production, on real hosts and a real NATS server inside the test's process,
// with the time in the hands of the test: a schedule a month ahead fires at once.
//
//	kit := agenttest.New(t, agent.Define("Cart", func() *Cart { return &Cart{} }))
//	carts := agent.Bind[*Cart]("Cart").In(kit.Project)
//	n, err := agent.Call(t.Context(), carts.Agent("ada"), (*Cart).Add, "a lamp")
//	kit.KillHost() // as by kill -9; what was answered is there all the same
//	kit.Advance(30 * 24 * time.Hour)
//	items := agenttest.State[[]string](kit, "Cart", "ada")
//
// Clients of an agent are those of [Kit.Dial]:
//
//	ada := kit.Dial("/agents/chat-room/lobby?_pk=ada", nil)
//	ada.Send("hello")
//	kit.KillHost() // the socket stays open
//	heard := ada.Messages()
//
// The clock stands still until the test lets it go on; turns take no time. Callbacks that fail are tried again at once.
// Workflows that agents start run on package workflowtest, with the same clock: see [In].
//
// It must never be used outside of tests: it trades the guarantees of stored time for speed.
package agenttest
