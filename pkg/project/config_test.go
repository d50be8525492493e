package project_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

const flightDesk = `// The project of the agents.
{
	"name": "flight-desk",
	"workflows": [
		{
			"name": "EMAIL_WORKFLOW", /* there */
			"class_name": "OnboardingWorkflow",
			"script_name": "email-workflows",
		},
		{
			"name": "refund", "binding": "REFUND", "class_name": "Refund",
			"limits": { "steps": 20000, "state": "256MiB" },
			"concurrency": { "limit": 3 },
			"default_retention": { "success_retention": "36h", "error_retention": "90 days" },
		},
		{ "name": "audit", "binding": "AUDIT", "class_name": "Audit", "script_name": "flight-desk" },
	],
	"agents": [
		{ "class_name": "Cart", "binding": "CARTS", "script_name": "shop" },
		{ "class_name": "Till" },
	],
	"nats_url": "nats://10.0.0.1:4222",
	"slots": 64,
	"shutdown_grace": "30s",
	"version": "v1.4",
	"max_value_size": "1GiB",
}
`

func TestParse(t *testing.T) {
	t.Parallel()
	c, err := project.Parse("skein.jsonc", []byte(flightDesk))
	if err != nil {
		t.Fatal(err)
	}
	want := []project.Workflow{
		{Name: "EMAIL_WORKFLOW", Binding: "EMAIL_WORKFLOW", ClassName: "OnboardingWorkflow", ScriptName: "email-workflows"},
		{Name: "refund", Binding: "REFUND", ClassName: "Refund", StepLimit: 20000, StateLimit: 256 << 20, Concurrency: 3,
			Retention: protocol.Retention{Success: protocol.Duration(36 * time.Hour), Error: protocol.Duration(90 * 24 * time.Hour)}},
		{Name: "audit", Binding: "AUDIT", ClassName: "Audit", ScriptName: "flight-desk"},
	}
	if c.Name != "flight-desk" || !reflect.DeepEqual(c.Workflows, want) {
		t.Errorf("config is %+v", c)
	}
	agents := []project.Agent{{ClassName: "Cart", Binding: "CARTS", ScriptName: "shop"}, {ClassName: "Till"}}
	if !slices.Equal(c.Agents, agents) {
		t.Errorf("agents are %+v", c.Agents)
	}
	settings := project.Settings{
		NATSURL: "nats://10.0.0.1:4222", Slots: 64, ShutdownGrace: process.Duration(30 * time.Second), Version: "v1.4", MaxValueSize: 1 << 30,
	}
	if c.Settings != settings {
		t.Errorf("settings are %+v", c.Settings)
	}
	if own := c.Own(); !reflect.DeepEqual(own, want[1:]) {
		t.Errorf("own workflows are %+v", own)
	}
}

func TestBinding(t *testing.T) {
	t.Parallel()
	c, err := project.Parse("skein.jsonc", []byte(flightDesk))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []project.Target{
		{Binding: "EMAIL_WORKFLOW", Project: "email-workflows", Workflow: "EMAIL_WORKFLOW", Class: "OnboardingWorkflow"},
		{Binding: "REFUND", Project: "flight-desk", Workflow: "refund", Class: "Refund"},
		{Binding: "AUDIT", Project: "flight-desk", Workflow: "audit", Class: "Audit"},
	} {
		if got, err := c.Binding(want.Binding); err != nil || got != want {
			t.Errorf("%s leads to %+v, error %v", want.Binding, got, err)
		}
	}
	_, err = c.Binding("refund") // the name, but it has a binding
	unknown, ok := errors.AsType[*project.UnknownBindingError](err)
	if !ok || unknown.Binding != "refund" || !slices.Equal(unknown.Known, []string{"AUDIT", "EMAIL_WORKFLOW", "REFUND"}) {
		t.Fatalf("error is %v", err)
	}
	if f := protocol.NewFailure(err); !f.Terminal || f.Name != "UnknownBindingError" || !strings.Contains(f.Message, `"AUDIT", "EMAIL_WORKFLOW"`) {
		t.Errorf("stored as %+v", f)
	}
	// A configuration that was made in code, without the defaults of a file.
	made := project.Config{Name: "a", Workflows: []project.Workflow{{Name: "w", ClassName: "W"}}}
	if got, err := made.Binding("w"); err != nil || got.Project != "a" {
		t.Errorf("w leads to %+v, error %v", got, err)
	}
}

// Every row has one fault, at the place marked by «».
func TestFaultsAreLocated(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ name, file, want string }{
		{"empty file", `«»`, "unexpected EOF"},
		{"cut off", "{\n\t\"name\": \"a\",«»", "unexpected EOF"},
		{"missing comma", "{\n  \"name\": \"a\"\n  «»\"slots\": 1\n}", "invalid character"},
		{"open comment", "{ «»/* \"name\": \"a\" }", "comment"},
		{"bare word", "{ \"name\": «»a }", "invalid"},
		{"second value", "{ \"name\": \"a\" }\n«»{}", "after top-level value"},
		{"not an object", `«»["name"]`, "want an object, found an array"},
		{"no name", `«»{}`, "name: invalid name: project is empty"},
		{"empty name", `{ "name": «»"" }`, "name: is empty"},
		{"bad name", "{\n  // who\n  \"name\": «»\"my project\"\n}", `name: invalid name: project "my project"`},
		{"name of a wrong type", `{ "name": «»12 }`, "name: want a string, found a number"},
		{"null", `{ "name": «»null }`, "name: want a string, found null"},
		{"unknown field", "{ \"name\": \"a\",\n«»\"colour\": \"red\" }", `unknown field "colour"; there are name, workflows, agents, nats_url`},
		{"field in another case", `{ «»"Name": "a" }`, `unknown field "Name"`},
		{"field twice", "{ \"name\": \"a\",\n  «»\"name\": \"b\" }", "name: stands here a second time"},
		{"after tabs and comments", "/* ä */ { \"name\": \"a\", // first\r\n\t\t«»\"x\": 1 }", `unknown field "x"`},
		{"workflows no array", `{ "name": "a", "workflows": «»{} }`, "workflows: want an array, found an object"},
		{"workflow no object", `{ "name": "a", "workflows": [ «»"w" ] }`, "workflows[0]: want an object, found a string"},
		{"unknown field of a workflow", "{ \"name\": \"a\", \"workflows\": [\n\t{ \"name\": \"w\", \"class_name\": \"W\" },\n\t{ \"name\": \"v\", «»\"class\": \"V\" } ] }",
			`workflows[1]: unknown field "class"; there are name, binding, class_name, script_name`},
		{"workflow's field of a wrong type", `{ "name": "a", "workflows": [ { "name": "w", "class_name": «»true } ] }`, "workflows[0].class_name: want a string, found a boolean"},
		{"workflow without name", `{ "name": "a", "workflows": [ «»{ "class_name": "W" } ] }`, "workflows[0].name: invalid name: workflow is empty"},
		{"workflow without class", `{ "name": "a", "workflows": [ «»{ "name": "w" } ] }`, "workflows[0].class_name: invalid name: class is empty"},
		{"bad workflow name", `{ "name": "a", "workflows": [ { "name": "v", "class_name": "V" }, { "name": «»"w.x", "class_name": "W" } ] }`, `workflows[1].name: invalid name: workflow "w.x"`},
		{"bad script name", `{ "name": "a", "workflows": [ { "name": "w", "class_name": "W", "script_name": «»"-b" } ] }`, `workflows[0].script_name: invalid name: project "-b"`},
		{"bad binding", `{ "name": "a", "workflows": [ { "name": "w", "class_name": "W", "binding": «»"W W" } ] }`, `workflows[0].binding: invalid name: binding "W W"`},
		{"agents no array", `{ "name": "a", "agents": «»{} }`, "agents: want an array, found an object"},
		{"agent without class", `{ "name": "a", "agents": [ «»{ "binding": "CARTS" } ] }`, "agents[0].class_name: invalid name: class is empty"},
		{"agent's unknown field", `{ "name": "a", "agents": [ { «»"name": "Cart" } ] }`, `agents[0]: unknown field "name"; there are class_name, binding, script_name`},
		{"bad script name of an agent", `{ "name": "a", "agents": [ { "class_name": "Cart", "script_name": «»"-b" } ] }`, `agents[0].script_name: invalid name: project "-b"`},
		{"same binding of agents", `{ "name": "a", "agents": [ { "class_name": "Cart" }, { "class_name": "Till", "binding": «»"Cart" } ] }`,
			`agents[1].binding: binding "Cart" is that of agents[0] already`},
		{"same binding", `{ "name": "a", "workflows": [ { "name": "w", "binding": "B", "class_name": "W" }, { "name": "v", "binding": «»"B", "class_name": "V" } ] }`,
			`workflows[1].binding: binding "B" is that of workflows[0] already`},
		{"name is another's binding", `{ "name": "a", "workflows": [ { "name": "w", "binding": "v", "class_name": "W" }, { "name": «»"v", "class_name": "V" } ] }`,
			`workflows[1].name: binding "v" is that of workflows[0] already`},
		{"own workflow twice", `{ "name": "a", "workflows": [ { "name": "w", "class_name": "W" }, { "name": «»"w", "binding": "B", "class_name": "V", "script_name": "a" } ] }`,
			`workflows[1].name: workflow "w" of this project is defined by workflows[0] already`},
		{"unknown limit", `{ "name": "a", "workflows": [ { "name": "w", "class_name": "W", "limits": { «»"cpu_ms": 1 } } ] }`,
			`workflows[0].limits: unknown field "cpu_ms"; there are steps, state`},
		{"limits of a wrong type", `{ "name": "a", "workflows": [ { "name": "w", "class_name": "W", "limits": «»10 } ] }`, "workflows[0].limits: want an object, found a number"},
		{"no steps", `{ "name": "a", "workflows": [ { "name": "w", "class_name": "W", "limits": { "steps": «»0 } } ] }`, "workflows[0].limits.steps: 0: allowed are whole numbers"},
		{"part of a step", `{ "name": "a", "workflows": [ { "name": "w", "class_name": "W", "limits": { "steps": «»1.5 } } ] }`, "workflows[0].limits.steps: 1.5: allowed are whole numbers"},
		{"steps as text", `{ "name": "a", "workflows": [ { "name": "w", "class_name": "W", "limits": { "steps": «»"10" } } ] }`, "workflows[0].limits.steps: want a number, found a string"},
		{"too many steps", `{ "name": "a", "workflows": [ { "name": "w", "class_name": "W", "limits": { "steps": «»100001 } } ] }`, "workflows[0].limits.steps: 100001: allowed is 1 to 100000"},
		{"state as a number", `{ "name": "a", "workflows": [ { "name": "w", "class_name": "W", "limits": { "state": «»10 } } ] }`, "workflows[0].limits.state: want a string, found a number"},
		{"no size", `{ "name": "a", "workflows": [ { "name": "w", "class_name": "W", "limits": { "state": «»"64MB" } } ] }`, `workflows[0].limits.state: "64MB": allowed are sizes as in "512MiB"`},
		{"too small a state", `{ "name": "a", "workflows": [ { "name": "w", "class_name": "W", "limits": { "state": «»"512KiB" } } ] }`, "workflows[0].limits.state: 512KiB: allowed is 1MiB to 1024GiB"},
		{"too large a state", `{ "name": "a", "workflows": [ { "name": "w", "class_name": "W", "limits": { "state": «»"1025GiB" } } ] }`, "workflows[0].limits.state: 1025GiB: allowed is 1MiB to 1024GiB"},
		{"too much concurrency", `{ "name": "a", "workflows": [ { "name": "w", "class_name": "W", "concurrency": { "limit": «»1001 } } ] }`, "workflows[0].concurrency.limit: 1001: allowed is 1 to 1000"},
		{"retention as a number", `{ "name": "a", "workflows": [ { "name": "w", "class_name": "W", "default_retention": { "error_retention": «»7 } } ] }`,
			"workflows[0].default_retention.error_retention: want a string, found a number"},
		{"retention of nothing", `{ "name": "a", "workflows": [ { "name": "w", "class_name": "W", "default_retention": { "success_retention": «»"0s" } } ] }`, `success_retention: "0s": must be more than 0`},
		{"no duration", `{ "name": "a", "workflows": [ { "name": "w", "class_name": "W", "default_retention": { "success_retention": «»"2 moons" } } ] }`, `"2 moons": allowed are durations as in "36h" and "30 days"`},
		{"overlong retention", `{ "name": "a", "workflows": [ { "name": "w", "class_name": "W", "default_retention": { "success_retention": «»"53 weeks" } } ] }`, `success_retention: 8904h0m0s: allowed is at most 8760h0m0s`},
		{"schedules of another's workflow", schedulesOf(`«»"@hourly"`, `, "script_name": "b"`), `workflows[0].schedules: can be set only by the project that owns the workflow, "b"`},
		{"schedules of a wrong type", schedulesOf(`«»{ "cron": "@hourly" }`, ""), "workflows[0].schedules: want a string or an array, found an object"},
		{"empty schedule", schedulesOf(`«»""`, ""), "workflows[0].schedules: is empty; leave the field out"},
		{"no schedules", schedulesOf(`«»[]`, ""), "workflows[0].schedules: is empty; leave the field out or give it a cron line"},
		{"empty schedule among others", schedulesOf(`[ "@hourly", «»"" ]`, ""), "workflows[0].schedules[1]: is empty"},
		{"schedule of a wrong type", schedulesOf(`[ "@hourly", «»12 ]`, ""), "workflows[0].schedules[1]: want a string or an object, found a number"},
		{"bad hour of the only line", schedulesOf(`"0 «»25 * * *"`, ""), `workflows[0].schedules[0].cron: cron line "0 25 * * *": hour, column 3: "25" is refused`},
		{"bad item of a line among others", schedulesOf("[\n\t\"@hourly\",\n\t\"0 9 * * MON,«»MOO\" ]", ""), `workflows[0].schedules[1].cron: cron line "0 9 * * MON,MOO": day of week, column 13`},
		{"bad line with an escape", schedulesOf(`«»"0 25 * *\u0020*"`, ""), `workflows[0].schedules[0].cron: cron line "0 25 * * *": hour, column 3`},
		{"too few fields", schedulesOf(`«»"0 9 *"`, ""), `cron line "0 9 *": has 3 fields; allowed are 5, 6 with seconds first, or a descriptor`},
		{"day that never comes", schedulesOf(`"0 0 «»30 2 *"`, ""), `never comes`},
		{"object without a line", schedulesOf(`[ «»{ "zone": "Europe/Oslo" } ]`, ""), "workflows[0].schedules[0].cron: is missing"},
		{"unknown field of a schedule", schedulesOf(`[ { «»"when": "@hourly" } ]`, ""), `workflows[0].schedules[0]: unknown field "when"; there are cron, zone, params, jitter, from, until, times, catch_up, overlap`},
		{"unknown zone", schedulesOf(`[ { "cron": "@hourly", "zone": «»"Mars/Base" } ]`, ""), `workflows[0].schedules[0].zone: cron line "@hourly" in time zone "Mars/Base": unknown time zone`},
		{"zone of the machine", schedulesOf(`[ { "cron": "@hourly", "zone": «»"Local" } ]`, ""), `workflows[0].schedules[0].zone: `},
		{"bad moment", schedulesOf(`[ { "cron": "@hourly", "from": «»"tomorrow" } ]`, ""), `workflows[0].schedules[0].from: "tomorrow": allowed are moments as in "2026-12-24T18:00:00Z"`},
		{"until before from", schedulesOf(`[ { "cron": "@hourly", "from": "2027-01-01T00:00:00Z", "until": «»"2026-01-01T00:00:00Z" } ]`, ""), `workflows[0].schedules[0].until: 2026-01-01T00:00:00Z: is before from`},
		{"no moment between from and until", schedulesOf(`[ { "cron": "@hourly", "from": "2027-01-01T00:01:00Z", "until": «»"2027-01-01T00:59:00Z" } ]`, ""), `workflows[0].schedules[0].until: 2027-01-01T00:59:00Z: leaves no moment to fire at`},
		{"from before there were computers", schedulesOf(`[ { "cron": "@hourly", "from": «»"1066-10-14T09:00:00Z" } ]`, ""), `workflows[0].schedules[0].from: 1066-10-14T09:00:00Z: allowed is from 1970-01-01 on`},
		{"until after everything", schedulesOf(`[ { "cron": "@hourly", "until": «»"2200-01-02T00:00:00Z" } ]`, ""), `workflows[0].schedules[0].until: 2200-01-02T00:00:00Z: allowed is before 2200-01-01`},
		{"negative jitter", schedulesOf(`[ { "cron": "@hourly", "jitter": «»"-5m" } ]`, ""), `workflows[0].schedules[0].jitter: `},
		{"interval out of range", schedulesOf(`"@every «»500ms"`, ""), `interval, column 8: "500ms" must be 1s to 365 days`},
		{"overlong line", schedulesOf(`«»"`+strings.Repeat("1,", 130)+`1 * * * *"`, ""), `at most 256 are allowed`},
		{"no times", schedulesOf(`[ { "cron": "@hourly", "times": «»0 } ]`, ""), `workflows[0].schedules[0].times: 0: allowed are whole numbers of at least 1`},
		{"too many times", schedulesOf(`[ { "cron": "@hourly", "times": «»1000001 } ]`, ""), `workflows[0].schedules[0].times: 1000001: allowed are 1 to 1000000`},
		{"too much to catch up", schedulesOf(`[ { "cron": "@hourly", "catch_up": «»1001 } ]`, ""), `workflows[0].schedules[0].catch_up: 1001: allowed are 0 to 1000`},
		{"no policy", schedulesOf(`[ { "cron": "@hourly", "overlap": «»"never" } ]`, ""), `workflows[0].schedules[0].overlap: never: allowed are ["skip" "buffer_one" "buffer_all" "cancel_running" "allow_all"]`},
		{"part of a moment to catch up", schedulesOf(`[ { "cron": "@hourly", "catch_up": «»0.5 } ]`, ""), `workflows[0].schedules[0].catch_up: 0.5: allowed are 0 to 1000`},
		{"jitter without a unit", schedulesOf(`[ { "cron": "@hourly", "jitter": «»"30" } ]`, ""), `workflows[0].schedules[0].jitter: "30": allowed are durations`},
		{"jitter of years", schedulesOf(`[ { "cron": "@hourly", "jitter": «»"366 days" } ]`, ""), `workflows[0].schedules[0].jitter: 8784h0m0s: allowed is up to 365 days`},
		{"params too large", schedulesOf(`[ { "cron": "@hourly", "params": «»"`+strings.Repeat("x", protocol.InlinePayload)+`" } ]`, ""), `workflows[0].schedules[0].params: 131074 bytes of JSON; allowed are 131072`},
		{"same line twice", schedulesOf(`[ "@hourly", { "cron": «»"@hourly", "params": 1 } ]`, ""), `workflows[0].schedules[1].cron: line "@hourly" in this zone is that of schedules[0] already`},
		{"same line with other blanks", schedulesOf(`[ "0 6 * * *", «»"0  6 * * *" ]`, ""), `workflows[0].schedules[1].cron: line "0  6 * * *" in this zone is that of schedules[0] already`},
		{"same line with and without UTC", schedulesOf(`[ "0 6 * * *", { "cron": «»"0 6 * * *", "zone": "UTC" } ]`, ""), `workflows[0].schedules[1].cron: line "0 6 * * *" in this zone is that of schedules[0] already`},
		{"too many schedules", schedulesOf(`«»[ `+strings.Repeat(`"@hourly", `, 101)+` ]`, ""), `workflows[0].schedules: 101: allowed are 100`},
		{"limit of another's workflow", `{ "name": "a", "workflows": [ { "name": "w", "class_name": "W", "script_name": "b", "concurrency": { "limit": «»3 } } ] }`,
			`workflows[0].concurrency.limit: can be set only by the project that owns the workflow, "b"`},
		{"bad size", `{ "name": "a", "max_value_size": «»"64MB" }`, `max_value_size: "64MB": allowed is 128KiB to 1GiB`},
		{"setting of schedulers", `{ "name": "a", «»"clean_after": "48h" }`, `"clean_after" is for schedulers, which read no skein.jsonc: start them with --clean-after or SKEIN_CLEAN_AFTER`},
		{"how often a scheduler looks", `{ "name": "a", «»"doctor_every": "1m" }`, `start them with --doctor-every or SKEIN_DOCTOR_EVERY`},
		{"other setting of schedulers", `{ "name": "a", «»"schedule_late_after": "1s" }`, `start them with --schedule-late-after or SKEIN_SCHEDULE_LATE_AFTER`},
		{"setting of a wrong type", `{ "name": "a", "slots": «»"8" }`, "slots: want a number, found a string"},
		{"number for a text setting", `{ "name": "a", "shutdown_grace": «»10 }`, "shutdown_grace: want a string, found a number"},
		{"text for a boolean setting", `{ "name": "a", "production": «»"true" }`, "production: want a boolean, found a string"},
		{"bad setting", "{ \"name\": \"a\",\n \"slots\": «»0 }", `slots: "0": allowed is 1 to 10000`},
		{"bad url", `{ "name": "a", "nats_url": «»"http://me:secret@x" }`, `nats_url: "http://***@x": allowed is nats://`},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			before, _, ok := strings.Cut(row.file, "«»")
			if !ok {
				t.Fatal("no mark")
			}
			lines := strings.Split(before, "\n")
			line, column := len(lines), len(lines[len(lines)-1])+1
			_, err := project.Parse("dir/skein.jsonc", []byte(strings.Replace(row.file, "«»", "", 1)))
			e, ok := errors.AsType[*project.ConfigError](err)
			if !ok {
				t.Fatalf("error is %v", err)
			}
			if e.Line != line || e.Column != column || e.File != "dir/skein.jsonc" {
				t.Errorf("the fault is at %d:%d, reported is: %v", line, column, err)
			}
			if !strings.Contains(err.Error(), row.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error is %v, want one with %q", err, row.want)
			}
		})
	}
}

func TestMessageIsWhatEditorsUnderstand(t *testing.T) {
	t.Parallel()
	_, err := project.Parse("skein.jsonc", []byte("{\n  \"name\": \"a\",\n  \"slots\": 0,\n  \"workflow\": []\n}"))
	const want = `skein.jsonc:3:12: slots: "0": allowed is 1 to 10000
skein.jsonc:4:3: unknown field "workflow"; there are name, workflows, agents, nats_url, nats_creds, nats_nkey, nats_ca, nats_cert, nats_key, nats_monitor, production, health_addr, log_level, log_format, shutdown_grace, replicas, shards, slots, take_over_after, http_addr, http_origins, http_max_body, http_timeout, http_drain, http_max_requests, http_max_sockets, http_frame_rate, http_max_connections, http_address_connections, http_address_sockets, http_address_rate, http_address_burst, http_proxies, http_header_timeout, http_read_timeout, http_idle_timeout, version, max_value_size`
	if err == nil || err.Error() != want {
		t.Errorf("error is\n%v\nwant\n%s", err, want)
	}
}

func TestSeveralWorkflowsOfOneForeignName(t *testing.T) {
	t.Parallel()
	// Names must differ only within this project.
	_, err := project.Parse("f", []byte(`{ "name": "a", "workflows": [
		{ "name": "w", "class_name": "W" },
		{ "name": "w", "binding": "B", "class_name": "W", "script_name": "b" },
		{ "name": "w", "binding": "C", "class_name": "W", "script_name": "c" } ] }`))
	if err != nil {
		t.Fatal(err)
	}
}

func TestValidateWithoutFile(t *testing.T) {
	t.Parallel()
	c := project.Config{Name: "a", Workflows: []project.Workflow{{Name: "w", ClassName: "W"}, {Name: "w x"}}}
	err := c.Validate()
	for _, want := range []string{`workflows[1].name: invalid name: workflow "w x"`, "workflows[1].class_name: invalid name: class is empty"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
	if !errors.Is(err, protocol.ErrName) {
		t.Errorf("error is %v", err)
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "skein.jsonc")
	_, err := project.Load(path)
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
	var said strings.Builder
	process.Report(&said, err)
	if !strings.Contains(said.String(), path) || !strings.Contains(said.String(), "next: create it") {
		t.Errorf("report is %s", said.String())
	}
	if err := os.WriteFile(path, []byte(flightDesk), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := project.Load(path); err != nil || c.Name != "flight-desk" {
		t.Errorf("config %+v, error %v", c, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(flightDesk))
	f.Add([]byte(`{ "name": "a", "workflows": [ { "name": 1 }, [], null ], "slots": {}, "slots": 1e9 }`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := project.Parse("f", data)
		if err != nil {
			e, ok := errors.AsType[*project.ConfigError](err)
			if !ok || e.Line < 1 || e.Column < 1 {
				t.Fatalf("fault without place: %v", err)
			}
			return
		}
		if err := c.Validate(); err != nil {
			t.Fatalf("parsed but not valid: %v", err)
		}
	})
}

func TestBindingsOfAgents(t *testing.T) {
	t.Parallel()
	c := project.Config{Name: "a", Agents: []project.Agent{{ClassName: "Cart", Binding: "CARTS", ScriptName: "shop"}, {ClassName: "Till"}}}
	for name, want := range map[string]project.AgentTarget{
		"CARTS": {Binding: "CARTS", Project: "shop", Class: "Cart"},
		"Till":  {Binding: "Till", Project: "a", Class: "Till"},
		"Desk":  {Binding: "Desk", Project: "a", Class: "Desk"},
	} {
		if got, err := c.AgentBinding(name); err != nil || got != want {
			t.Errorf("AgentBinding(%q) = %+v, %v; want %+v", name, got, err, want)
		}
	}
	if _, err := c.AgentBinding("no such"); !errors.Is(err, protocol.ErrName) {
		t.Errorf("AgentBinding of what is no class: %v", err)
	}
}

// schedulesOf is a file with a workflow that has schedules, and more.
func schedulesOf(schedules, more string) string {
	return `{ "name": "a", "workflows": [ { "name": "w", "class_name": "W", "schedules": ` + schedules + more + ` } ] }`
}

func TestSchedules(t *testing.T) {
	t.Parallel()
	parse := func(schedules string) []project.Schedule {
		t.Helper()
		c, err := project.Parse("f", []byte(schedulesOf(schedules, "")))
		if err != nil {
			t.Fatal(err)
		}
		return c.Workflows[0].Schedules
	}
	if got := parse(`"0 9 * * 1-5"`); !reflect.DeepEqual(got, []project.Schedule{{Cron: "0 9 * * 1-5"}}) {
		t.Errorf("one line is %+v", got)
	}
	got := parse(`[ "@hourly", { "cron": "@hourly", "zone": "Europe/Oslo", "jitter": "5m", "from": "2026-01-01T00:00:00+01:00",
		"until": "2026-06-01T00:00:00Z", "times": 3, "catch_up": 0, "overlap": "skip", "params": { "to": ["all", /* now */ ], } } ]`)
	want := []project.Schedule{{Cron: "@hourly"}, {
		Cron: "@hourly", Zone: "Europe/Oslo", Jitter: protocol.Duration(5 * time.Minute), From: new(time.Date(2025, 12, 31, 23, 0, 0, 0, time.UTC)),
		Until: new(time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)), Times: 3, CatchUp: new(0), Overlap: protocol.OverlapSkip, Params: []byte(`{"to":["all"]}`),
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("schedules are %+v, want %+v", got, want)
	}
	made := project.Config{Name: "a", Workflows: []project.Workflow{{Name: "w", ClassName: "W", Schedules: []project.Schedule{{Cron: "@hourly", Params: []byte("{")}}}}}
	if err := made.Validate(); err == nil || !strings.Contains(err.Error(), "workflows[0].schedules[0].params: is no JSON") {
		t.Errorf("error is %v", err)
	}
}
