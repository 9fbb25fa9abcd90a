package cache_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/cache"
	"registry-module/cache/cachetest"
)

// newPair returns a site with two remotes, upstream.test and second.test, which a
// name can mean in this order.
func newPair(t *testing.T, adjust ...func(*cache.Options)) (s *site, second *cachetest.Upstream) {
	t.Helper()
	second = &cachetest.Upstream{Name: "second.test"}
	s = newSite(t, append([]func(*cache.Options){func(o *cache.Options) {
		o.Remotes = append(o.Remotes, cache.Remote{
			Host: second.Host(), Upstream: second, TagTTL: tagTTL,
			Naming: cache.Naming{Prefix: "second.test/"},
		})
		o.Remotes[0].Naming = cache.Naming{Others: []string{"second.test/"}, Aside: "@upstream.test/"}
	}}, adjust...)...)
	return s, second
}

// called is what clients call name.
func (s *site) called(name string) *cache.Name {
	var places []cache.Place
	for _, r := range s.opts.Remotes {
		places = append(places, cache.Place{Host: r.Host, Repo: name})
	}
	return s.Name(name, places...)
}

// addImageAt makes an image of nothing but text.
func addImageAt(up *cachetest.Upstream, repo, tag, text string) digest.Digest {
	return up.AddManifest(repo, tag, v1.MediaTypeImageManifest,
		fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"digest":%q,"size":%d},"layers":[],"annotations":{"text":%q}}`,
			v1.MediaTypeImageManifest, up.AddBlob(repo, []byte("config of "+text)), len("config of "+text), text))
}

// bindings are those of the site, as name=host.
func (s *site) bindings(t *testing.T) (all []string) {
	t.Helper()
	for b, err := range s.Bindings(t.Context()) {
		must(t, err)
		all = append(all, b.Name+"="+b.Host)
	}
	return all
}

func status(kind error) *cache.UpstreamError {
	return &cache.UpstreamError{Kind: kind, Remote: "x", Op: "asking"}
}

// Which remote answers for a name that both could have, or none.
func TestNameIsFound(t *testing.T) {
	away := status(cache.ErrUnavailable)
	denied := status(cache.ErrDenied)
	for name, tt := range map[string]struct {
		first   func(up *cachetest.Upstream) // what the first remote has; the second always has a:v1
		lenient bool                         // the first denies what does not exist
		want    string                       // host, or empty for kind
		kind    error
		bound   string
		second  int // requests to the second remote
	}{
		"only at the second":                {func(*cachetest.Upstream) {}, false, "second.test", nil, "second.test", 1},
		"at both":                           {func(up *cachetest.Upstream) { addImageAt(up, "a", "v1", "first") }, false, "upstream.test", nil, "upstream.test", 0},
		"the first has other tags":          {func(up *cachetest.Upstream) { addImageAt(up, "a", "v2", "first") }, false, "", cache.ErrNotFound, "upstream.test", 0},
		"the first is away":                 {func(up *cachetest.Upstream) { up.Fail(away) }, false, "", cache.ErrUnavailable, "", 0},
		"the first limits us":               {func(up *cachetest.Upstream) { up.Fail(status(cache.ErrRateLimited)) }, false, "", cache.ErrRateLimited, "", 0},
		"the first answers nonsense":        {func(up *cachetest.Upstream) { up.Fail(status(cache.ErrInvalid)) }, false, "", cache.ErrInvalid, "", 0},
		"the first is in a loop":            {func(up *cachetest.Upstream) { up.Fail(status(cache.ErrLoop)) }, false, "", cache.ErrLoop, "", 0},
		"the first denies":                  {func(up *cachetest.Upstream) { up.Fail(denied) }, false, "", cache.ErrDenied, "", 0},
		"the first denies what is not":      {func(up *cachetest.Upstream) { up.Fail(denied) }, true, "second.test", nil, "second.test", 1},
		"away, though it denies what isn't": {func(up *cachetest.Upstream) { up.Fail(away) }, true, "", cache.ErrUnavailable, "", 0},
		"away for the list of tags":         {func(up *cachetest.Upstream) { up.FailOp("tags", away) }, false, "", cache.ErrUnavailable, "", 0},
		"the first has a list without tags": {func(up *cachetest.Upstream) { addImageAt(up, "a", "x", "first"); up.RemoveTag("a", "x") }, false, "", cache.ErrNotFound, "upstream.test", 0},
		"no list of tags":                   {func(up *cachetest.Upstream) { up.FailOp("tags", status(cache.ErrInvalid)) }, false, "", cache.ErrInvalid, "", 0},
		"no list of tags for us":            {func(up *cachetest.Upstream) { up.FailOp("tags", denied) }, false, "", cache.ErrDenied, "", 0},
		"no list of tags of what is not":    {func(up *cachetest.Upstream) { up.FailOp("tags", denied) }, true, "second.test", nil, "second.test", 1},
	} {
		t.Run(name, func(t *testing.T) {
			s, second := newPair(t, func(o *cache.Options) { o.Remotes[0].DeniedIsAbsent = tt.lenient })
			want := map[string]digest.Digest{"second.test": addImageAt(second, "a", "v1", "second")}
			tt.first(s.up)
			for range 2 { // found out, known
				m, err := s.called("a").Tag(t.Context(), "v1")
				switch {
				case tt.kind != nil && !errors.Is(err, tt.kind):
					t.Errorf("error %v, want %v", err, tt.kind)
				case tt.want == "second.test" && m.Digest != want[tt.want],
					tt.want == "upstream.test" && (m.Digest == "" || m.Digest == want["second.test"]):
					t.Errorf("manifest %s, error %v, want that of %s", m.Digest, err, tt.want)
				}
			}
			if got := second.Calls(""); got != tt.second {
				t.Errorf("%d requests to the second remote, want %d", got, tt.second)
			}
			var bound []string
			if tt.bound != "" {
				bound = []string{"a=" + tt.bound}
			}
			if got := s.bindings(t); !slices.Equal(got, bound) {
				t.Errorf("bindings %q, want %q", got, bound)
			}
		})
	}
}

// What has been found is not something else later, whoever comes and goes.
func TestBindingHolds(t *testing.T) {
	s, second := newPair(t)
	found := addImageAt(second, "a", "v1", "second")
	tag := func(tag string) (digest.Digest, error) {
		m, err := s.called("a").Tag(t.Context(), tag)
		return m.Digest, err
	}
	if got, err := tag("v1"); got != found || err != nil {
		t.Fatalf("%s, %v", got, err)
	}
	s.wantCalls(t, "tags", 1)
	asked := s.up.Calls("")
	addImageAt(s.up, "a", "v1", "of somebody else")
	addImageAt(s.up, "a", "v2", "of somebody else")
	s.pass(time.Hour) // the tag is asked about again
	if got, err := tag("v1"); got != found || err != nil {
		t.Errorf("the name means %s, %v", got, err)
	}
	_, err := tag("v2")
	if !errors.Is(err, cache.ErrNotFound) || !strings.Contains(err.Error(), "bound to second.test") {
		t.Errorf("a tag that only the other remote has: %v", err)
	}
	second.Fail(status(cache.ErrUnavailable))
	s.pass(time.Hour)
	if got, err := tag("v1"); got != found || err != nil {
		t.Errorf("with its remote away: %s, %v", got, err)
	}
	if _, err := tag("v3"); !errors.Is(err, cache.ErrUnavailable) {
		t.Errorf("what is not stored, with its remote away: %v", err)
	}
	s.reopen(t)
	if got, err := tag("v1"); got != found || err != nil {
		t.Errorf("after a restart: %s, %v", got, err)
	}
	if n := s.up.Calls(""); n != asked {
		t.Errorf("%d requests to the other remote, want none", n-asked)
	}

	if ok, err := s.Unbind(t.Context(), "a"); !ok || err != nil {
		t.Errorf("unbinding: %v, %v", ok, err)
	}
	if ok, err := s.Unbind(t.Context(), "a"); ok || err != nil {
		t.Errorf("unbinding again: %v, %v", ok, err)
	}
	if got, err := tag("v1"); got == found || err != nil {
		t.Errorf("unbound, the name still means %s, %v", got, err)
	}
	if got := s.bindings(t); !slices.Equal(got, []string{"a=upstream.test"}) {
		t.Errorf("bindings %q", got)
	}
}

// A binding that has expired is found out anew, if all can be asked who come first.
func TestBindingExpires(t *testing.T) {
	const ttl = 24 * time.Hour
	s, second := newPair(t, func(o *cache.Options) { o.BindingTTL = ttl })
	at2 := addImageAt(second, "a", "v1", "second")
	tag := func() digest.Digest {
		t.Helper()
		m, err := s.called("a").Tag(t.Context(), "v1")
		must(t, err)
		return m.Digest
	}
	if tag() != at2 {
		t.Fatal("not found")
	}
	s.pass(-2 * ttl) // a clock without battery
	calls := s.up.Calls("")
	if tag() != at2 || s.up.Calls("") != calls {
		t.Error("a clock in the past unbinds names")
	}
	s.pass(3 * ttl)
	s.up.Fail(status(cache.ErrUnavailable))
	if tag() != at2 {
		t.Error("with the first remote away, the name means something else")
	}
	s.up.SetAway(cache.ErrUnavailable, false)
	calls = s.up.Calls("")
	if tag() != at2 || s.up.Calls("") != calls {
		t.Errorf("the first remote is asked %d times more while it is away", s.up.Calls("")-calls)
	}
	s.up.Fail(nil)
	s.up.SetAway(nil, false)
	s.pass(time.Minute)
	if tag() != at2 || s.up.Calls("") == calls {
		t.Error("the first remote is not asked")
	}
	s.pass(2 * ttl)
	at1 := addImageAt(s.up, "a", "v1", "first")
	if got := tag(); got != at1 {
		t.Errorf("the name means %s, want %s", got, at1)
	}
	for b, err := range s.Bindings(t.Context()) {
		must(t, err)
		if b.Host != "upstream.test" || !b.Since.Equal(s.now) || !b.Expires.Equal(s.now.Add(ttl)) {
			t.Errorf("binding %+v", b)
		}
	}
}

// What has moved to another remote, and is not where it was any more, can be found
// there once it is not bound. Without remotes, what is stored tells.
func TestNameHasMoved(t *testing.T) {
	s, second := newPair(t)
	old := addImageAt(s.up, "a", "v1", "first")
	_, err := s.called("a").Tag(t.Context(), "v1")
	must(t, err)
	s.up.RemoveRepo("a")
	moved := addImageAt(second, "a", "v2", "second")
	if _, err := s.called("a").Tag(t.Context(), "v2"); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("while it is bound: %v", err)
	}
	_, err = s.Unbind(t.Context(), "a")
	must(t, err)
	if m, err := s.called("a").Tag(t.Context(), "v2"); m.Digest != moved || err != nil {
		t.Errorf("%s, %v", m.Digest, err)
	}

	_, err = s.Unbind(t.Context(), "a")
	must(t, err)
	s.reopen(t, func(o *cache.Options) { o.Remotes[0].Upstream, o.Remotes[1].Upstream = nil, nil })
	if _, err := s.called("a").Tag(t.Context(), "v2"); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("a tag of the second remote, where something of the first is stored: %v", err)
	}
	if m, err := s.called("a").Tag(t.Context(), "v1"); m.Digest != old || err != nil {
		t.Errorf("%s, %v", m.Digest, err)
	}
	if _, err := s.called("b").Tag(t.Context(), "v1"); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("what is not stored: %v", err)
	}
}

// Who is slow to find a name does not change what it means meanwhile.
func TestNameIsFoundTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, second := newPair(t)
		blob := second.AddBlob("a", []byte("of somebody else"))
		slow := make(chan struct{})
		second.Asked = func(context.Context, string) { <-slow }
		done := make(chan error)
		go func() {
			_, err := s.called("a").OpenBlob(t.Context(), blob)
			done <- err
		}()
		synctest.Wait() // the first remote does not have it, yet
		mine := addImageAt(s.up, "a", "v1", "first")
		m, err := s.called("a").Tag(t.Context(), "v1")
		if err != nil || m.Digest != mine {
			t.Errorf("%s, %v", m.Digest, err)
		}
		close(slow)
		if err := <-done; !errors.Is(err, cache.ErrNotFound) || !strings.Contains(err.Error(), "bound to upstream.test") {
			t.Errorf("what the other remote has: %v", err)
		}
		if got := s.bindings(t); !slices.Equal(got, []string{"a=upstream.test"}) {
			t.Errorf("bindings %q", got)
		}
	})
}

// Many who use a name whose binding has expired wait for a remote that is away once.
func TestExpiredNameOfRemoteThatIsAway(t *testing.T) {
	const ttl = 24 * time.Hour
	s, second := newPair(t, func(o *cache.Options) { o.BindingTTL = ttl })
	dgst := addImageAt(second, "a", "v1", "second")
	_, err := s.called("a").Tag(t.Context(), "v1")
	must(t, err)
	s.pass(2 * ttl)
	s.up.Fail(status(cache.ErrUnavailable))
	asked := s.up.Calls("")
	for range 10 {
		_, err := s.called("a").Manifest(t.Context(), dgst)
		must(t, err)
		s.up.SetAway(cache.ErrUnavailable, false)
	}
	if n := s.up.Calls("") - asked; n != 1 {
		t.Errorf("%d requests to the remote that is away", n)
	}
}

// A remote that is not configured any more binds nothing.
func TestBindingToNobody(t *testing.T) {
	s, second := newPair(t)
	addImageAt(second, "a", "v1", "second")
	_, err := s.called("a").Tag(t.Context(), "v1")
	must(t, err)
	want := addImageAt(s.up, "a", "v1", "first")
	s.reopen(t, func(o *cache.Options) {
		o.Remotes = append(o.Remotes[:1], cache.Remote{Host: "third.test", Upstream: &cachetest.Upstream{Name: "third.test"}, Naming: cache.Naming{Prefix: "third.test/"}})
	})
	if m, err := s.called("a").Tag(t.Context(), "v1"); m.Digest != want || err != nil {
		t.Errorf("%s, %v", m.Digest, err)
	}
}

// All that can be asked for finds the one repository that is meant.
func TestNameOfEachKind(t *testing.T) {
	for name, ask := range map[string]func(n *cache.Name, m, blob digest.Digest) error{
		"manifest": func(n *cache.Name, m, _ digest.Digest) error {
			got, err := n.Manifest(t.Context(), m)
			if err == nil && got.Digest != m {
				err = fmt.Errorf("manifest %s", got.Digest)
			}
			return err
		},
		"stat": func(n *cache.Name, _, blob digest.Digest) error {
			got, err := n.StatBlob(t.Context(), blob)
			if err == nil && got.Size != int64(len("config of second")) {
				err = fmt.Errorf("size %d", got.Size)
			}
			return err
		},
		"blob": func(n *cache.Name, _, blob digest.Digest) error {
			b, err := n.OpenBlob(t.Context(), blob)
			if err != nil {
				return err
			}
			content, err := io.ReadAll(b)
			if string(content) != "config of second" {
				t.Errorf("content %q", content)
			}
			return errors.Join(err, b.Close())
		},
		"tags": func(n *cache.Name, _, _ digest.Digest) error {
			list, err := n.Tags(t.Context(), -1, "")
			tags, more := list.Tags, list.More
			if err == nil && (more || !slices.Equal(tags, []string{"v1"})) {
				err = fmt.Errorf("tags %q, %v", tags, more)
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, second := newPair(t)
			m := addImageAt(second, "a", "v1", "second")
			blob := digest.FromString("config of second")
			must(t, ask(s.called("a"), m, blob))
			if n := s.up.Calls("tags"); n != 1 {
				t.Errorf("the first remote was asked for tags %d times, want once", n)
			}
			asked := s.up.Calls("")
			must(t, ask(s.called("a"), m, blob))
			if n := s.up.Calls(""); n != asked {
				t.Errorf("the first remote was asked %d times more", n-asked)
			}
			err := ask(s.called("nothing"), m, blob)
			if !errors.Is(err, cache.ErrNotFound) || !strings.Contains(err.Error(), "upstream.test has no repository nothing, second.test has no") {
				t.Errorf("what nobody has: %v", err)
			}
		})
	}
}

// What is stored is answered without finding anything out, but only for whom it is
// known to be meant.
func TestCachedName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, second := newPair(t)
		dgst := addImageAt(second, "a", "v1", "second")
		n := s.called("a")
		cached := func() error {
			_, tagErr := n.CachedTag(t.Context(), "v1")
			_, err := n.CachedManifest(t.Context(), dgst)
			if (tagErr == nil) != (err == nil) {
				t.Errorf("tag: %v, manifest: %v", tagErr, err)
			}
			return err
		}
		explicit, ok := s.Cache.Repository(cache.Place{Host: "second.test", Repo: "a"})
		if !ok {
			t.Fatal("no such remote")
		}
		_, err := explicit.Tag(t.Context(), "v1")
		must(t, err)
		if cached() == nil {
			t.Error("what was pulled by its full name is served for a name of which nobody knows what it means")
		}
		_, err = n.Tag(t.Context(), "v1")
		must(t, err)
		must(t, cached())
		blob := digest.FromString("config of second")
		b, err := n.OpenBlob(t.Context(), blob)
		must(t, err)
		readAll(t, b)
		synctest.Wait()
		b, err = n.CachedBlob(t.Context(), blob)
		must(t, err)
		readAll(t, b)
		if n := second.Calls("manifest"); n != 1 {
			t.Errorf("%d requests for the manifest, want one", n)
		}
	})
}
