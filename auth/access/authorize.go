package access

import (
	"net/http"
	"slices"
	"time"

	"github.com/distribution/distribution/v3/registry/auth"

	"registry-module/auth/policy"
)

// Ask is what a request is for. The zero value is GET /v2/.
type Ask struct {
	// Resource is what access controllers call the repository; empty where none is asked
	// for.
	Resource string
	// Catalog tells that the list of repositories is asked for.
	Catalog bool
	// Names are all names by which clients can ask for the repository, for the policy.
	Names []string
	// Host and Repo are the remote and its own name for the repository. Host is empty
	// where none is meant.
	Host, Repo string
	// Kind and Reference are what of the repository is asked for: "manifest" or "blob",
	// "referrers" of a manifest, "tags"; empty for something else.
	Kind, Reference string
}

// ping tells whether nothing is asked for but whether there is a registry.
func (a Ask) ping() bool { return a.Resource == "" && !a.Catalog && a.Host == "" && len(a.Names) == 0 }

// lists tells whether it is about the list of tags, or about nothing that is in the
// repository.
func (a Ask) lists() bool { return a.Kind == "" || a.Kind == "tags" }

// request is a request that is being decided about.
type request struct {
	*http.Request
	ask    Ask
	policy *policy.Policy // nil: there is none
	caller *Caller
	// user and password are what was given; neither was verified.
	user, password string
	given          bool
}

// Authorize decides about a request. Where the caller may have what it asks for, it is
// returned. Errors are:
//   - an [auth.Challenge], for 401: the caller has not logged in, and that may help;
//   - [ErrDenied], for 403: the caller is known;
//   - a [*BusyError], for 429;
//   - [ErrUnavailable], for 503: the remote that has to let the caller in could not be
//     asked;
//   - and others where it could not be found out, or the request has ended.
//
// It can take seconds for who fails to log in.
//
// GET /v2/ is answered at once, but for a password that has to be compared. Clients send
// what they have only after a 401 to that; so it is one wherever a log-in may be of use,
// also where something could be had without.
func (g *Gate) Authorize(r *http.Request, ask Ask) (*Caller, error) {
	user, password, given := basicOf(r)
	req := &request{
		Request: r, ask: ask, policy: g.policy(), user: user, password: password, given: given,
		caller: &Caller{gate: g, certificates: certificatesOf(r, g.now())},
	}
	if given && len(g.remotes) > 0 {
		req.caller.id = g.ids.of(user, password)
	}
	by, through := g.remotes[ask.Host]
	var err error
	switch {
	case through:
		err = g.authorizeThrough(req, by)
	case given && ask.ping() && len(g.remotes) > 0:
		// It may be for one of the remotes. Which one is not known yet.
	case g.controller == nil:
		err = g.authorizeUnknown(req)
	default:
		err = g.authorizeControlled(req)
	}
	if err != nil {
		return nil, err
	}
	req.rules()
	return req.caller, nil
}

// rules looks for the rules about the caller, as far as it is known.
func (req *request) rules() policy.Rules {
	if req.policy != nil {
		rules := req.policy.About(policy.Caller{User: req.caller.user, Certificates: req.caller.certificates})
		req.caller.rules = &rules
		return rules
	}
	return policy.Rules{}
}

// allowed tells whether the policy allows what is asked for to the caller, as far as it is
// known.
func (req *request) allowed() bool {
	rules := req.rules()
	if req.ask.Catalog {
		return rules.MayList()
	}
	return rules.MayPull(policy.Repository{Names: req.ask.Names})
}

// errChallenge asks for a log-in.
func (g *Gate) errChallenge() error { return &challenge{g.realm, errLogin} }

// authorizeThrough decides about what is of a remote that lets callers in itself.
func (g *Gate) authorizeThrough(req *request, by PassThrough) error {
	if !req.given {
		return g.errChallenge()
	}
	// If it is who it says. What no rule allows, the remote is not asked about: how long
	// that takes would tell whether it exists.
	req.caller.user = req.user
	if req.policy != nil && !req.allowed() {
		return ErrDenied
	}
	return g.through(req.Request, by, req.ask, req.user, req.password)
}

// authorizeUnknown decides where nobody knows who logs in, but for the remotes whom they
// have let in.
func (g *Gate) authorizeUnknown(req *request) error {
	ask, login := req.ask, len(g.remotes) > 0
	req.byRemote(g)
	switch {
	case login && !req.given && (ask.ping() || ask.Catalog && req.policy == nil):
		return g.errChallenge()
	case req.policy == nil:
		return nil
	case ask.ping() && (req.rules().Named() || req.policy.AnonymousMay()), !ask.ping() && req.allowed():
		return nil
	case req.caller.user != "", len(req.caller.certificates) > 0 && (!login || req.given):
		return ErrDenied
	}
	return g.errChallenge()
}

// authorizeControlled decides where an access controller knows who logs in.
func (g *Gate) authorizeControlled(req *request) error {
	ask := req.ask
	anonymous := req.Header.Get("Authorization") == "" || isEmptyBasic(req.Request)
	switch {
	case req.policy == nil || !anonymous:
	case ask.ping() && len(g.remotes) == 0 && req.rules().Named(), !ask.ping() && req.allowed():
		return nil // a certificate will do, or nothing
	}
	if !req.byRemote(g) {
		if err := g.logIn(req); err != nil {
			return err
		}
	}
	if req.policy == nil || ask.ping() || req.allowed() {
		return nil
	}
	return ErrDenied
}

// byRemote tells whether the catalog is asked for by who is known to some remote, and who
// that is. What is of no such remote is not for it because of that.
func (req *request) byRemote(g *Gate) bool {
	if !req.ask.Catalog || !req.given || !g.verdicts.has(req.caller.id) {
		return false
	}
	req.caller.user = req.user
	req.caller.elsewhere = func([]string) bool { return g.controller == nil }
	if req.policy != nil {
		rules := req.policy.About(policy.Caller{Certificates: req.caller.certificates})
		req.caller.elsewhere = func(names []string) bool { return rules.MayPull(policy.Repository{Names: names}) }
	}
	return true
}

// isEmptyBasic tells whether a request has an empty user name and an empty password.
func isEmptyBasic(r *http.Request) bool {
	user, password, ok := r.BasicAuth()
	return ok && user == "" && password == ""
}

// logIn has the access controller find out who the caller is.
func (g *Gate) logIn(req *request) error {
	if g.logins != nil && req.given {
		if err := g.byPassword(req.Request, req.user, req.password); err != nil {
			return err
		}
		req.caller.user = req.user
		return nil
	}
	grant, err := g.controller.Authorized(req.Request, recordsOf(req.Method, req.ask)...)
	if err == nil && grant == nil {
		err = errNoGrant
	}
	if err != nil {
		return err
	}
	req.caller.user = grant.User.Name
	return nil
}

// recordsOf are what an access controller is asked for: the same as the embedded app of
// distribution asks for.
func recordsOf(method string, ask Ask) (records []auth.Access) {
	add := func(kind, name string, actions ...string) {
		for _, action := range actions {
			records = append(records, auth.Access{Resource: auth.Resource{Type: kind, Name: name}, Action: action})
		}
	}
	switch {
	case ask.Catalog:
		add("registry", "catalog", "*")
	case ask.Resource == "":
	case method == http.MethodPost, method == http.MethodPut, method == http.MethodPatch:
		add("repository", ask.Resource, "pull", "push")
	case method == http.MethodDelete:
		add("repository", ask.Resource, "delete")
	default:
		add("repository", ask.Resource, "pull")
	}
	return records
}

// certificatesOf returns the names in the client certificate of a request, if it was
// verified: its common name, and the names of hosts that it is for. It was verified when
// the connection was made, and may have expired since.
func certificatesOf(r *http.Request, now time.Time) []string {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || len(r.TLS.VerifiedChains[0]) == 0 {
		return nil
	}
	leaf := r.TLS.VerifiedChains[0][0]
	if now.After(leaf.NotAfter) {
		return nil
	}
	names := append([]string{leaf.Subject.CommonName}, leaf.DNSNames...)
	return slices.Compact(slices.DeleteFunc(names, func(name string) bool { return name == "" }))
}

// Caller is who has asked.
type Caller struct {
	gate         *Gate
	user         string
	certificates []string
	rules        *policy.Rules // nil: there is no policy
	id           credential    // what it has given; zero for none
	// elsewhere says, where only a remote knows the caller, what else is for it.
	elsewhere func(names []string) bool
}

// Name returns what the caller is called in logs: the name by which it has logged in, or
// the first one in its certificate; empty where it is not known.
func (c *Caller) Name() string {
	switch {
	case c.user != "":
		return c.user
	case len(c.certificates) > 0:
		return c.certificates[0]
	}
	return ""
}

// MayPull tells whether the caller may see in the catalog, and pull, the repository with
// these names, which is called repo at the remote with that host. It asks nobody: of a
// remote that lets callers in itself, these are the repositories of which it is known that
// it has let the caller in.
func (c *Caller) MayPull(names []string, host, repo string) bool {
	by, through := c.gate.remotes[host]
	switch {
	case !through && c.elsewhere != nil:
		return c.elsewhere(names)
	case c.rules != nil && !c.rules.MayPull(policy.Repository{Names: names}):
		return false
	case !through:
		return true
	}
	s := c.gate.verdicts.look(pair{c.id, place{host, repo, false}}, c.gate.now(), by)
	return s.fresh || s.grace
}
