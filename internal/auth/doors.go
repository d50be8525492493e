package auth

import (
	"slices"

	"github.com/skein-run/skein/pkg/protocol"
)

// connect gives the account of a project what others may ask at its door and tell it as news, and what it may ask and tell
// others. Nothing else gets from one account into another.
func (s *State) connect(a *account) {
	for _, pair := range s.pairs() {
		door, news := protocol.Door{Owner: pair.To, Caller: pair.From}, protocol.Door{News: true, Owner: pair.From, Caller: pair.To}
		switch a.name {
		case pair.To:
			for _, subject := range s.doorSubjects(door) {
				a.exports = append(a.exports, serviceTo(pair.From, subject))
			}
			a.imports = append(a.imports, serviceFrom(pair.From, news.Subjects()))
		case pair.From:
			for _, subject := range s.doorSubjects(door) {
				a.imports = append(a.imports, serviceFrom(pair.To, subject))
			}
			a.exports = append(a.exports, serviceTo(pair.To, news.Subjects()))
		}
	}
}

// pairs are the projects of which one may reach the other, whatever of it.
func (s *State) pairs() (pairs []Grant) {
	for _, g := range s.Grants {
		if pair := (Grant{From: g.From, To: g.To}); !slices.Contains(pairs, pair) {
			pairs = append(pairs, pair)
		}
	}
	return pairs
}

// doorSubjects are those of a door at which the grants let its caller speak.
func (s *State) doorSubjects(d protocol.Door) []string {
	subjects := []string{d.RegistrySubject(), d.ValueSubject("*")}
	for _, g := range s.Grants {
		switch {
		case g.From != d.Caller || g.To != d.Owner:
		case g.Workflow == "":
			return []string{d.Subjects()}
		default:
			subjects = append(subjects, d.WorkflowSubject(g.Workflow, "*"))
		}
	}
	slices.Sort(subjects)
	return slices.Compact(subjects)
}

// Rights at doors are the same with and without accounts: processes serve their door in both. In one account nobody is answered
// there, as answers go to other accounts only.

// speak lets a project speak at the doors of those that it was granted.
func (s *State) speak(p *Permissions, project string) {
	for _, pair := range s.pairs() {
		if pair.From == project {
			p.say(s.doorSubjects(protocol.Door{Owner: pair.To, Caller: project})...)
		}
	}
}

// tell lets a project tell others what became of what they have asked for.
func (s *State) tell(p *Permissions, project string) {
	for _, pair := range s.pairs() {
		if pair.To == project {
			p.say(protocol.Door{News: true, Owner: pair.From, Caller: project}.Subjects())
		}
	}
}

// serve lets a process of a project serve what is the same for workflows and agents, and returns the door and where it hears news.
func serve(p *Permissions, project string) (door, news protocol.Door) {
	door, news = protocol.Door{Owner: project, Caller: protocol.AnyCaller}, protocol.Door{News: true, Owner: project, Caller: protocol.AnyCaller}
	p.hear(door.RegistrySubject(), door.ValueSubject("*"), news.ValueSubject("*"))
	return door, news
}

// serveWorkflows lets the runners of a project serve its door, and take news of what they have asked for. What they have to say
// to others they keep in a stream of their own.
func serveWorkflows(p *Permissions, project string) {
	door, news := serve(p, project)
	p.hear(door.WorkflowSubject("*", "*"), news.WorkflowSubject("*", "*"), protocol.PostSubjects(project))
	post := protocol.PostStream(project)
	p.own(post, protocol.PostSubjects(project))
	p.say(api + "STREAM.MSG.DELETE." + post)
}

// serveAgents lets the hosts of a project do the same for its agents. What callers of other accounts tell agents they put into the
// inbox, in the names of these.
func (s *State) serveAgents(p *Permissions, project string) {
	door, news := serve(p, project)
	p.hear(door.AgentSubject("*", "*"), news.AgentSubject("*", "*"))
	if s.Accounts {
		p.say(protocol.InboxSubjectsFrom(project, protocol.AnyCaller))
	}
}
