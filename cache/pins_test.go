package cache_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"registry-module/cache"
)

// What is kept of a pinned tag that moves twice is the last that was complete.
func TestPinnedTagMovesTwice(t *testing.T) {
	for name, c := range map[string]struct{ pulled, want string }{
		"the second is complete": {pulled: "second", want: "second"},
		"it is not":              {want: "first"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, limited(4), func(o *cache.Options) { o.Pins = []string{"a:latest"} })
				first := s.push("a", "latest", "first")
				s.pull(t, "a", "latest")
				second := s.push("a", "latest", "second")
				s.pass(2 * tagTTL)
				_, err := s.Repository("a").Tag(t.Context(), "latest")
				must(t, err)
				if c.pulled == "second" {
					s.pull(t, "a", "latest")
				}
				s.push("a", "latest", "third")
				s.pass(2 * tagTTL)
				_, err = s.Repository("a").Tag(t.Context(), "latest")
				must(t, err)
				s.rest()
				for i := range 8 {
					tag := fmt.Sprint(i)
					s.push("b", tag, tag)
					s.pull(t, "b", tag)
					s.pull(t, "b", tag)
				}
				got := s.images(t)
				want := "a@" + map[string]string{"first": first.Encoded(), "second": second.Encoded()}[c.want][:6]
				if !slices.Contains(got, want) || !slices.Contains(got, "a:latest?") {
					t.Errorf("stored are %q, want the %s, %s", got, c.want, want)
				}
			})
		})
	}
}
