package auth

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// Role is what a user of NATS is for.
type Role string

// Roles. Those of projectRoles have a user per project, the others exist once.
const (
	AgentHost      Role = "agent-host"
	WorkflowRunner Role = "workflow-runner"
	// Operator is for the commands of skein about a project, and for programs that use its bindings.
	Operator Role = "operator"
	// Viewer may look, and change nothing.
	Viewer Role = "viewer"
	// Scheduler serves all projects of its account.
	Scheduler Role = "scheduler"
	// Admin may do everything with streams and buckets of its account: for backups and repairs.
	Admin Role = "admin"
	// System watches the servers and sees nothing of the projects.
	System Role = "system"
)

// Roles lists all there are.
func Roles() []Role {
	return []Role{AgentHost, WorkflowRunner, Operator, Viewer, Scheduler, Admin, System}
}

// projectRoles are those that each project has: the first four, and if it has an account of its own, all that belong to an
// account.
func (s *State) projectRoles() []Role {
	if s.Accounts {
		return Roles()[:6]
	}
	return Roles()[:4]
}

func (s *State) sharedRoles() []Role { return Roles()[len(s.projectRoles()):] }

// respondWithin is how long after a request its answer may be sent. Whoever waits longer asks again; what is streamed for
// hours goes between the hosts of one project, who are one user.
const respondWithin = 5 * time.Minute

// Permissions are what a user may do. Without any, it may do everything in its account.
type Permissions struct {
	Publish   []string
	Deny      []string
	Subscribe []string
	// Responds lets it answer whom it is asked by.
	Responds bool
}

// Permit derives what a role of a project may do; a role that is there once has no project.
func (s *State) Permit(project string, role Role) *Permissions {
	p := &Permissions{Subscribe: []string{protocol.UserInbox(userName(project, role)) + ".>"}}
	switch role {
	case AgentHost:
		s.host(p, project)
	case WorkflowRunner:
		s.runner(p, project)
	case Operator:
		s.operator(p, project)
	case Viewer:
		s.viewer(p, project)
	case Scheduler:
		s.scheduler(p, project)
	case System:
		p.say("$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER.PING.*", "$SYS.REQ.ACCOUNT.PING.*")
	default:
		return nil
	}
	for _, list := range []*[]string{&p.Publish, &p.Deny, &p.Subscribe} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	return p
}

// userName names the user of a role in messages, files and inboxes.
func userName(project string, role Role) string {
	if project == "" {
		return string(role)
	}
	return project + "_" + string(role)
}

func (s *State) host(p *Permissions, project string) {
	registers(p, project)
	for _, bucket := range []string{
		protocol.AgentsBucket(project), protocol.HostsBucket(project), protocol.DeadBucket(project), protocol.ConnectionsBucket(project),
	} {
		p.own(protocol.KVStream(bucket), protocol.KVSubject(bucket, ">"))
	}
	schedules := protocol.SchedulesBucket(project)
	p.own(protocol.KVStream(schedules), protocol.KVSubject(schedules, ">"))
	p.Deny = append(p.Deny, protocol.KVSubject(schedules, protocol.CronKeys)) // those are the runners'
	inbox := protocol.InboxStream(project)
	p.own(inbox, protocol.InboxSubjectsFrom(project, project))
	p.consume(inbox)
	p.objects(project)
	p.create(protocol.ObjectsStream(project))
	between := []string{
		protocol.RequestSubjects(project), protocol.HostSubject(project, "*"), protocol.BodySubject(project, "*"),
		protocol.SocketsSubject(project, "*"), protocol.ActivateSubject(project, "*"),
	}
	p.say(between...)
	p.hear(between...)
	p.hear(protocol.CallSubjects(project, "*"), protocol.WorkflowSubjects(project), protocol.QuiesceSubject(project))
	p.say(protocol.UserInbox(userName(project, AgentHost)) + ".>") // answers between hosts, for as long as they stream
	p.Responds = true
	s.outward(p, project)
	s.serveAgents(p, project)
	s.tell(p, project)
}

func (s *State) runner(p *Permissions, project string) {
	registers(p, project)
	for _, workflows := range s.workflows(project) {
		p.own(workflows, protocol.WorkflowSubjects(project))
		p.consume(workflows)
	}
	timers := protocol.TimersStream(project)
	p.own(timers, protocol.ArmSubjects(project))
	p.consume(timers)
	slots, schedules := protocol.SlotsBucket(project), protocol.SchedulesBucket(project)
	p.own(protocol.KVStream(slots), protocol.KVSubject(slots, ">"))
	p.own(protocol.KVStream(schedules), protocol.KVSubject(schedules, protocol.CronKeys))
	p.objects(project)
	p.create(protocol.ObjectsStream(project))
	p.hear(protocol.PokeSubject(project), protocol.AskSubject(project), protocol.AskRunnersSubjects(project), protocol.QuiesceSubject(project))
	p.hear(protocol.WorkflowSubjects(project)) // to follow instances, of itself and for others
	p.say(protocol.PokeSubject(project))
	p.Responds = true
	s.outward(p, project)
	serveWorkflows(p, project)
	s.tell(p, project)
	if s.Accounts {
		return
	}
	for _, g := range s.Grants { // what its workflows tell those who started them
		if g.To != project {
			continue
		}
		p.say(protocol.EventSubjects(g.From, protocol.AnyWorkflow), protocol.InboxSubjectsFrom(g.From, project))
		p.read(s.workflows(g.From)...)
		p.info(protocol.InboxStream(g.From))
		p.objects(g.From)
	}
}

func (s *State) operator(p *Permissions, project string) {
	s.viewer(p, project)
	schedules, dead := protocol.SchedulesBucket(project), protocol.KVStream(protocol.DeadBucket(project))
	p.say(protocol.KVSubject(schedules, ">"))
	p.purge(dead)
	s.outward(p, project)
}

// viewer may read everything of a project, and ask its runners.
func (s *State) viewer(p *Permissions, project string) {
	for _, stream := range append(s.streamsOf(project), protocol.PostStream(project)) {
		p.read(stream)
		p.say(api + "CONSUMER.INFO." + stream + ".*")
	}
	p.read(protocol.StreamClock)
	p.read(protocol.KVStream(protocol.BucketProjects))
	p.say(protocol.AskSubject(project), protocol.AskRunnersSubjects(project))
	p.hear(protocol.EndedSubjects(project), protocol.WorkflowSubjects(project))
}

// workflows are the streams of a project's instances, one for each shard.
func (s *State) workflows(project string) []string {
	all := make([]string, max(1, s.Shards[project]))
	for shard := range all {
		all[shard] = protocol.WorkflowsStream(project, shard)
	}
	return all
}

func (s *State) streamsOf(project string) []string {
	streams := append(s.workflows(project), protocol.TimersStream(project), protocol.InboxStream(project), protocol.ObjectsStream(project))
	for _, bucket := range []string{
		protocol.AgentsBucket(project), protocol.HostsBucket(project), protocol.DeadBucket(project), protocol.ConnectionsBucket(project),
		protocol.SchedulesBucket(project), protocol.SlotsBucket(project),
	} {
		streams = append(streams, protocol.KVStream(bucket))
	}
	return streams
}

// registers is what the processes of a project need of the streams that all projects share: whoever comes first makes them.
func registers(p *Permissions, project string) {
	p.say(protocol.KVSubject(protocol.BucketProjects, project), protocol.SubjectServers)
	for _, stream := range []string{protocol.StreamClock, protocol.KVStream(protocol.BucketProjects), protocol.KVStream(protocol.SchedulesBucket(project))} {
		p.read(stream)
		p.create(stream)
		p.makeConsumers(stream)
	}
}

// outward is what is sent to workflows and agents: of the own project, and of those that it was granted.
func (s *State) outward(p *Permissions, project string) {
	p.send(project, project, protocol.AnyWorkflow, s.workflows(project))
	s.speak(p, project)
	if s.Accounts {
		return
	}
	// A project that is not registered may have an account of its own: that is asked, and nobody hears it.
	p.say(protocol.Door{Owner: "*", Caller: project}.RegistrySubject())
	for _, g := range s.Grants {
		if g.From == project {
			p.send(project, g.To, g.workflow(), s.workflows(g.To))
		}
	}
}

// send lets one project reach a workflow of another, or all of it with its agents. Streams are those of its instances.
func (p *Permissions) send(from, to, workflow string, streams []string) {
	p.say(protocol.CreateSubjects(to, workflow), protocol.EventSubjects(to, workflow), protocol.SteerSubjects(to, workflow),
		protocol.AskSubject(to), protocol.AskRunnersSubjects(to))
	p.hear(protocol.EndedSubjects(to))
	p.read(streams...)
	p.read(protocol.KVStream(protocol.BucketProjects))
	p.objects(to) // what is too large for a message lies with whom it is for
	if workflow == protocol.AnyWorkflow {
		p.say(protocol.CallSubject(to, from, "*"), protocol.InboxSubjectsFrom(to, from))
	}
}

// scheduler serves a project, or all if it has none: it fires their schedules, cleans up after their instances, and has those go on that
// have lost what they need for that.
func (s *State) scheduler(p *Permissions, only string) {
	janitors := protocol.BucketJanitors
	p.say(protocol.SubjectServers)
	p.own(protocol.StreamClock, protocol.ClockSubjects)
	p.consume(protocol.StreamClock)
	p.own(protocol.KVStream(janitors), protocol.KVSubject(janitors, ">"))
	registry := protocol.KVStream(protocol.BucketProjects)
	p.read(registry)
	p.create(registry)
	p.makeConsumers(registry) // the watch of a bucket is one
	p.say(api+"CONSUMER.DELETE."+registry+".*", "$JS.FC."+registry+".>")
	for _, project := range s.Projects {
		if only != "" && project != only {
			continue
		}
		schedules := protocol.SchedulesBucket(project)
		p.own(protocol.KVStream(schedules), protocol.KVSubject(schedules, ">"))
		p.consume(protocol.KVStream(schedules))
		p.say(protocol.InboxSubjectsFrom(project, project), protocol.CreateSubjects(project, protocol.AnyWorkflow),
			protocol.SteerSubjects(project, protocol.AnyWorkflow), protocol.AskSubject(project),
			protocol.NudgeSubjects(project, protocol.AnyWorkflow)) // to instances that have lost what they wait for
		p.read(protocol.KVStream(protocol.SlotsBucket(project)))
		for _, workflows := range s.workflows(project) {
			p.read(workflows)
			p.purge(workflows)
			p.say(api + "CONSUMER.INFO." + workflows + ".*")
		}
		timers := protocol.TimersStream(project)
		p.read(timers)
		p.say(api + "CONSUMER.INFO." + timers + ".*")
		p.objects(project)
		p.read(protocol.KVStream(protocol.AgentsBucket(project))) // what is applied of a schedule that must not overlap
		p.read(protocol.InboxStream(project))
	}
}

// api begins the requests to JetStream.
const api = "$JS.API."

func (p *Permissions) say(subjects ...string)  { p.Publish = append(p.Publish, subjects...) }
func (p *Permissions) hear(subjects ...string) { p.Subscribe = append(p.Subscribe, subjects...) }

func (p *Permissions) info(stream string) { p.say(api + "STREAM.INFO." + stream) }

func (p *Permissions) create(stream string) { p.say(api + "STREAM.CREATE." + stream) }

// read lets it read every message of streams: which ones, stands in the body of a request, which the server does not judge.
func (p *Permissions) read(streams ...string) {
	for _, stream := range streams {
		p.info(stream)
		p.say(api+"STREAM.MSG.GET."+stream, api+"DIRECT.GET."+stream, api+"DIRECT.GET."+stream+".>")
	}
}

// purge lets it remove messages of a stream.
func (p *Permissions) purge(stream string) {
	p.say(api+"STREAM.PURGE."+stream, api+"STREAM.MSG.DELETE."+stream)
}

// own lets it make, read, write and clean a stream of its own.
func (p *Permissions) own(stream string, subjects ...string) {
	p.read(stream)
	p.create(stream)
	p.purge(stream)
	p.say(subjects...)
}

// objects lets it put and drop large values of a project.
func (p *Permissions) objects(project string) {
	stream := protocol.ObjectsStream(project)
	p.read(stream)
	p.purge(stream)
	p.say(protocol.ObjectMetaSubjects(project), protocol.ObjectChunkSubjects(project))
}

// makeConsumers lets it make the consumers of a stream.
func (p *Permissions) makeConsumers(stream string) {
	p.say(api+"CONSUMER.CREATE."+stream+".>", api+"CONSUMER.INFO."+stream+".*")
}

// consume lets it take and acknowledge what consumers of a stream deliver.
func (p *Permissions) consume(stream string) {
	p.makeConsumers(stream)
	// The second form of acknowledgements names domain and account before the stream.
	p.say(api+"CONSUMER.MSG.NEXT."+stream+".*", protocol.AckPrefix+stream+".>", protocol.AckPrefix+"*.*."+stream+".>")
}

// Grant lets the agents, workflows and programs of one project reach a workflow of another, or all of it.
type Grant struct {
	From     string `json:"from"`
	To       string `json:"to"`
	Workflow string `json:"workflow,omitempty"`
}

func (g Grant) String() string {
	if g.Workflow == "" {
		return g.From + ":" + g.To
	}
	return g.From + ":" + g.To + "/" + g.Workflow
}

func (g Grant) workflow() string {
	if g.Workflow == "" {
		return protocol.AnyWorkflow
	}
	return g.Workflow
}

// ParseGrant reads "from:to" or "from:to/workflow".
func ParseGrant(text string) (Grant, error) {
	from, to, ok := strings.Cut(text, ":")
	to, workflow, named := strings.Cut(to, "/")
	g := Grant{From: from, To: to, Workflow: workflow}
	if !ok || from == to || protocol.CheckProject(from) != nil || protocol.CheckProject(to) != nil || named && protocol.CheckWorkflow(workflow) != nil {
		return g, fmt.Errorf("grant: %q: allowed is FROM:TO or FROM:TO/WORKFLOW, with two projects", text)
	}
	return g, nil
}
