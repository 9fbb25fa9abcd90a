package upstream

import (
	"errors"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"registry-module/cache"
)

func newIdentities() *authorizer {
	return &authorizer{remote: &Remote{base: &url.URL{Scheme: "https", Host: "r.example.com"}}, exchanging: make(chan struct{}, 1)}
}

// TestQueueOfIdentityTokensIsBounded waits for who has got hold of a service that does
// not answer.
func TestQueueOfIdentityTokensIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newIdentities()
		done, err := a.beginRefresh(t.Context(), "getting a token", "c")
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := a.beginRefresh(t.Context(), "getting a token", "c"); !errors.Is(err, cache.ErrUnavailable) {
			t.Errorf("who has waited gets %v", err)
		}
		if waited := time.Since(start); waited != flightTimeout {
			t.Errorf("it took %v", waited)
		}
		done()
		if done, err = a.beginRefresh(t.Context(), "getting a token", "c"); err != nil {
			t.Errorf("who comes then gets %v", err)
		}
		done()
	})
}

// TestIdentities goes through what services do with the identity token c.
func TestIdentities(t *testing.T) {
	type step struct{ used, next string } // next "!": rejected
	for name, tt := range map[string]struct {
		steps  []step
		latest string
		lasts  bool
	}{
		"nothing known":               {nil, "c", false},
		"says nothing":                {[]step{{"c", ""}}, "c", true},
		"says the same":               {[]step{{"c", "c"}}, "c", true},
		"replaces it":                 {[]step{{"c", "1"}}, "1", false},
		"replaces each":               {[]step{{"c", "1"}, {"1", "2"}}, "2", false},
		"replaces it once":            {[]step{{"c", "1"}, {"1", ""}}, "1", true},
		"replaces it after a while":   {[]step{{"c", ""}, {"c", "1"}}, "1", false},
		"rejects what it has given":   {[]step{{"c", "1"}, {"1", "!"}}, "c", false},
		"rejects what has lasted":     {[]step{{"c", "1"}, {"1", "1"}, {"1", "!"}}, "c", false},
		"late word of the old one":    {[]step{{"c", ""}, {"c", "1"}, {"c", ""}}, "1", false},
		"late rejection of an old":    {[]step{{"c", "1"}, {"1", "2"}, {"1", "!"}}, "2", false},
		"rejected twice and replaced": {[]step{{"c", "1"}, {"1", "!"}, {"c", "2"}, {"1", "!"}}, "2", false},
	} {
		t.Run(name, func(t *testing.T) {
			a := newIdentities()
			for _, s := range tt.steps {
				if s.next == "!" {
					a.giveUp(s.used)
				} else {
					a.replace("c", s.used, s.next)
				}
			}
			if got := a.latest("c"); got != tt.latest {
				t.Errorf("%s counts, want %s", got, tt.latest)
			}
			if got := a.identityOf("c").lasts; got != tt.lasts {
				t.Errorf("it lasts: %v", got)
			}
			// Who logs in again begins anew.
			if a.latest("d") != "d" || a.identityOf("d").lasts {
				t.Error("something is known of another one")
			}
		})
	}
}
