package protocol

// Subjects that permissions are made of: each covers what one kind of sender says.

// UserInbox begins the inboxes of everybody who is a user of NATS in a role. It has one token, so that it can be a prefix of
// nobody else's.
func UserInbox(user string) string { return InboxPrefix + "_" + Escape(user) }

// AnyWorkflow stands for all workflows of a project.
const AnyWorkflow = "*"

// EventSubjects is every event for instances of a workflow.
func EventSubjects(project, workflow string) string {
	return "wf." + project + ".*.in." + workflow + ".*.event"
}

// SteerSubjects is every control of instances of a workflow.
func SteerSubjects(project, workflow string) string {
	return "wf." + project + ".*.ctl." + workflow + ".*"
}

// EndedSubjects tells of the ends of all instances of a project.
func EndedSubjects(project string) string { return "ended." + project + ".>" }

// ArmSubjects is every timer of a project that has not fired.
func ArmSubjects(project string) string { return "timer." + project + ".*.*.*.*.at" }

// AskRunnersSubjects reaches each runner of a project.
func AskRunnersSubjects(project string) string { return AskSubject(project) + ".*" }

// InboxSubjectsFrom is all mail that one project has sent to agents of another.
func InboxSubjectsFrom(project, from string) string { return "inbox." + project + "." + from + ".>" }

// RequestSubjects reaches the owners of all agents of a project.
func RequestSubjects(project string) string { return "agent." + project + ".>" }
