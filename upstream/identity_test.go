package upstream_test

import (
	"fmt"
	"sync"
	"testing"

	"registry-module/auth"
	"registry-module/upstream"
	ut "registry-module/upstream/upstreamtest"
)

// TestLastingIdentityTokensAreNotQueued has all repositories ask for their tokens at the
// same time, as soon as one answer has shown that the identity token is good for that.
func TestLastingIdentityTokensAreNotQueued(t *testing.T) {
	const repos = 10
	reg, _ := sample(t)
	reg.SetAuth(ut.Auth{Scheme: "Bearer", IdentityToken: "secret"})
	for i := range repos {
		reg.AddRandomImage(fmt.Sprintf("r%d", i), "v1", 1, 10)
	}
	r := newRemote(t, upstream.Options{URL: reg.URL(), Credentials: auth.New(auth.Options{IdentityToken: "secret"})})
	// The first is held, and then all others, none of which is answered before all have
	// come.
	first, others := ut.NewGate(), ut.NewGate()
	come, left := make(chan struct{}), repos-1
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Token}, Gate: others, Match: func(ut.Request) bool {
		if left--; left == 0 {
			close(come)
		}
		return true
	}})
	reg.Script(ut.Fault{Kinds: []ut.Kind{ut.Token}, Gate: first, Times: 1})
	var all sync.WaitGroup
	for i := range repos {
		all.Go(func() { get(t, r, fmt.Sprintf("r%d", i), "v1") })
	}
	<-first.Reached()
	if n := reg.Requests(ut.Token); n != 1 {
		t.Errorf("%d tokens are asked for before it is known whether that is good", n)
	}
	first.Open()
	<-come
	others.Open()
	all.Wait()
	wantRequests(t, reg, map[ut.Kind]int{ut.Ping: 1, ut.Token: repos, ut.ManifestGet: repos})
}
