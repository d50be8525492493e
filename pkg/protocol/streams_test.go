package protocol

import "testing"

func TestParseStream(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]struct {
		kind    StreamKind
		project string
	}{
		"WORKFLOWS_shop":              {KindWorkflows, "shop"},
		"WORKFLOWS_shop=12":           {KindWorkflows, "shop"},
		TimersStream("shop"):          {KindTimers, "shop"},
		InboxStream("a-b"):            {KindInbox, "a-b"},
		"KV_AGENTS_shop":              {KindAgents, "shop"},
		"KV_SCHEDULES_shop":           {KindSchedules, "shop"},
		"KV_HOSTS_shop":               {KindHosts, "shop"},
		"KV_SLOTS_shop":               {KindSlots, "shop"},
		"KV_CONNECTIONS_shop":         {KindConnections, "shop"},
		"KV_DEAD_shop":                {KindDead, "shop"},
		ObjectsStream("shop"):         {KindObjects, "shop"},
		PostStream("shop"):            {KindPost, "shop"},
		"CLOCK":                       {KindClock, ""},
		"KV_PROJECTS":                 {KindProjects, ""},
		"KV_JANITORS":                 {KindJanitors, ""},
		"WORKFLOWS_":                  {},
		"ORDERS":                      {},
		"KV_AGENTS_":                  {},
		"KV_OF_ANOTHER":               {},
		"WORKFLOWS_no such.project":   {},
		"WORKFLOWS_shop/of_something": {},
	} {
		kind, project, ok := ParseStream(name)
		if kind != want.kind || project != want.project || ok != (want.kind != "") {
			t.Errorf("ParseStream(%q) = %q, %q, %t, want %q, %q", name, kind, project, ok, want.kind, want.project)
		}
	}
}
