package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"registry-module/upstream/upstreamtest"
)

// tableRules are about the callers of TestAccessTable.
const tableRules = `
rules:
  - {users: [line1, "wrong*"], pull: [team/**, two/only/**], deny: [team/secret/**], catalog: true}
  - {certificates: [press-*], pull: [team/**], deny: [team/secret/**], catalog: true}
  - {users: [puller, "stranger*"], pull: [pass/**], catalog: true}
  - {users: [boss], pull: ["**", "main/**", "two/**"], catalog: true}
`

// What the callers of TestAccessTable are to get. Nothing is that there is no such thing.
const (
	granted = iota
	absent
	login     // 401
	forbidden // 403
)

// tableRepos are what is asked for, by what it is to the callers with a rule.
var tableRepos = map[string]string{
	"allowed":                        "team/app",
	"allowed, by alias":              "main/team/app",
	"allowed by alias only":          "two/only/app",
	"allowed, does not exist":        "team/none",
	"denied":                         "team/secret/app",
	"denied, by alias":               "main/team/secret/app",
	"denied, by namespace":           "team/secret/app?ns=main",
	"denied, does not exist":         "none/app",
	"other remote's same name":       "two/team/app",
	"other remote's, by namespace":   "team/app?ns=two",
	"not configured":                 "team/app?ns=elsewhere.test",
	"passed through":                 "pass/app",
	"passed through, does not exist": "pass/none",
}

// tableCallers are who asks, with what each gets; what is not named it gets as a rest. A
// user that ends in * is another one each time, since failures are slow.
var tableCallers = map[string]struct {
	user, password, certificate string
	rest                        int
	gets                        map[string]int
	catalog                     []string // nil: none
}{
	"nobody": {rest: login},
	"user with a rule": {user: "line1", password: "secret-line1", rest: forbidden, gets: map[string]int{
		"allowed": granted, "allowed, by alias": granted, "allowed by alias only": granted, "allowed, does not exist": absent,
	}, catalog: []string{"team/app", "two/only/app"}},
	"user without a rule": {user: "other", password: "secret-other", rest: forbidden},
	"wrong password": {user: "wrong*", password: "secret-guess", rest: login, gets: map[string]int{
		"passed through": forbidden, "passed through, does not exist": forbidden}},
	"certificate with a rule": {certificate: "press-1", rest: login, gets: map[string]int{
		"allowed": granted, "allowed, by alias": granted, "allowed, does not exist": absent,
	}, catalog: []string{"team/app"}},
	"certificate without a rule": {certificate: "other", rest: login},
	"certificate and user":       {user: "line1", password: "secret-line1", certificate: "other", rest: forbidden, gets: map[string]int{"allowed": granted, "allowed, by alias": granted, "allowed by alias only": granted, "allowed, does not exist": absent}, catalog: []string{"team/app", "two/only/app"}},
	"certificate and wrong": {user: "wrong*", password: "secret-guess", certificate: "press-1", rest: login, gets: map[string]int{
		"passed through": forbidden, "passed through, does not exist": forbidden}},
	"user passed through":           {user: "puller", password: "secret-puller", rest: -1, gets: map[string]int{"passed through": granted}, catalog: []string{"pass/app"}},
	"user passed through, refused":  {user: "stranger*", password: "secret-guess", rest: -1, gets: map[string]int{"passed through": login, "passed through, does not exist": login}},
	"user with a rule for anything": {user: "boss", password: "secret-boss", rest: -1, gets: map[string]int{"denied": granted, "denied, does not exist": absent, "other remote's same name": granted, "not configured": forbidden}, catalog: []string{"team/app", "team/secret/app", "two/only/app", "two/team/app"}},
}

// tableKinds are what of a repository is asked for.
var tableKinds = map[string]struct{ method, path string }{
	"manifest GET":  {http.MethodGet, "manifests/v1"},
	"manifest HEAD": {http.MethodHead, "manifests/v1"},
	"by digest":     {http.MethodGet, "manifests/{image}"},
	"blob GET":      {http.MethodGet, "blobs/{layer}"},
	"blob HEAD":     {http.MethodHead, "blobs/{layer}"},
	"tags":          {http.MethodGet, "tags/list"},
	"referrers":     {http.MethodGet, "referrers/{image}"},
}

// TestAccessTable is the table of who gets what, of the whole program, cached or not. Who
// is denied something gets the same for whatever exists, is cached, or does not, and
// nobody else is asked because of him.
func TestAccessTable(t *testing.T) {
	s := newAccessSite(t)
	answers := map[string]map[string]bool{} // by caller and method, of those that are denied
	// round asks for all that is in the table with want, at a time as many as are held.
	round := func(state string, wants ...int) {
		t.Helper()
		var mu sync.Mutex
		var all sync.WaitGroup
		room := make(chan struct{}, 48)
		n := 0
		for callerName, c := range tableCallers {
			for what, repo := range tableRepos {
				want, ok := c.gets[what]
				if !ok {
					want = c.rest
				}
				if !slices.Contains(wants, want) {
					continue
				}
				for kindName, kind := range tableKinds {
					user := c.user
					if strings.HasSuffix(user, "*") {
						if kindName == "by digest" || kindName == "referrers" || kindName == "blob GET" || kindName == "manifest HEAD" {
							continue // each takes half a second
						}
						user = fmt.Sprintf("%s%s%d", strings.TrimSuffix(user, "*"), state, n)
						n++
					}
					room <- struct{}{}
					all.Go(func() {
						defer func() { <-room }()
						status, answer := s.ask(t, kind.method, repo, kind.path, user, c.password, c.certificate)
						mu.Lock()
						defer mu.Unlock()
						expected := map[int]int{granted: 200, absent: 404, login: 401, forbidden: 403}[want]
						if want == absent && kindName == "referrers" {
							expected = 200 // there are none
						}
						if status != expected {
							t.Errorf("%s, %s, %s, %s: status %d, want %d", state, callerName, what, kindName, status, expected)
						}
						if want == login || want == forbidden {
							key := fmt.Sprint(callerName, " ", kind.method, " ", want)
							if answers[key] == nil {
								answers[key] = map[string]bool{}
							}
							answers[key][answer] = true
						}
					})
				}
			}
		}
		all.Wait()
	}
	denied := func(state string) {
		t.Helper()
		s.reset()
		round(state, login, forbidden)
		for name, up := range map[string]*upstreamtest.Registry{"main": s.main, "two": s.two} {
			if n := up.Requests(); n != 0 {
				t.Errorf("%s: %s was asked %d times for who is denied: %v", state, name, n, up.Log())
			}
		}
		// Whether it lets callers in is all that the other one was asked.
		if n := s.pass.Requests(upstreamtest.ManifestGet, upstreamtest.BlobGet, upstreamtest.Referrers); n != 0 {
			t.Errorf("%s: pass was asked %d times for who is denied", state, n)
		}
	}
	denied("not cached")
	round("not cached", granted, absent)
	s.warm(t)
	denied("cached")
	round("cached", granted, absent)
	for key, different := range answers {
		if len(different) != 1 {
			t.Errorf("%s: who is denied can tell what exists by %v", key, different)
		}
	}
	s.catalogs(t)
	s.crossed(t)
	s.handshakes(t)
	s.leaks(t)
}
