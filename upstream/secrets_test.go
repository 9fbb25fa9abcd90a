package upstream_test

import (
	"encoding/base64"
	"fmt"
	"html"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"registry-module/upstream"
)

func TestSecretsAreMasked(t *testing.T) {
	const special = `s3cret/pass "&+% wörd`
	login := base64.StdEncoding.EncodeToString([]byte("me:" + special))
	for name, tt := range map[string]struct {
		config     authn.AuthConfig
		text, want string
	}{
		"nothing":           {authn.AuthConfig{}, "DENIED: no", "DENIED: no"},
		"password":          {password("hunter2"), "no, hunter2 is wrong", "no, REDACTED is wrong"},
		"twice":             {password("hunter2"), "hunter2hunter2", "REDACTED"},
		"within a word":     {password("hunter2"), "xhunter2y", "xREDACTEDy"},
		"in capitals":       {password("hunter2"), "HUNTER2", "REDACTED"},
		"user name":         {password("hunter2"), "no, me", "no, me"},
		"Basic":             {password(special), "got Basic " + login, "got Basic REDACTED=="},
		"Basic, cut":        {password(special), "got Basic " + login[:20], "got Basic REDACTED"},
		"Basic, for URLs":   {password("???>>>"), base64.URLEncoding.EncodeToString([]byte("me:???>>>")), "REDACTED"},
		"auth":              {authn.AuthConfig{Auth: login}, "Basic " + login + " is " + special, "Basic REDACTED is REDACTED"},
		"in a query":        {password(special), "password=" + url.QueryEscape(special), "password=REDACTED"},
		"in a path":         {password(special), "/" + url.PathEscape(special), "/REDACTED"},
		"escaped otherwise": {password(special), strings.ToLower(url.QueryEscape(special)), "REDACTED"},
		"in HTML":           {password(special), html.EscapeString(special), "REDACTED"},
		"quoted":            {password(special), fmt.Sprintf("%q", special), `"REDACTED"`},
		"with line breaks":  {password("hun\nter \t2"), "hun\nter \t2", "REDACTED"},
		"identity token":    {authn.AuthConfig{IdentityToken: "abcdefgh"}, "abcdefgh", "REDACTED"},
		"registry token":    {authn.AuthConfig{RegistryToken: "abcdefgh"}, "Bearer abcdefgh.", "Bearer REDACTED."},
		"long, cut":         {password(strings.Repeat("abcdefgh", 9)), strings.Repeat("abcdefgh", 4) + "...", "REDACTED..."},
		"begun twice":       {password("abababababababababac"), "ababababababababababac", "REDACTED"},
		"not the same":      {password("abcdefghijklmnopq"), "abcdefghijklmno", "abcdefghijklmno"},
		"short":             {password("a"), "a: that is a, a_, a1 and 'a'", "REDACTED: that is REDACTED, REDACTED_, a1 and 'REDACTED'"},
		"behind spaces":     {password("hunter2"), strings.Repeat(" ", 100_000) + "hunter2", ""},
		"at the cut":        {password("hunter2"), strings.Repeat("x", 397) + "hunter2", strings.Repeat("x", 397) + "RED..."},
		"beyond the cut":    {password("hunter2"), strings.Repeat("x", 400) + "hunter2", strings.Repeat("x", 400) + "..."},
		"in what is cut":    {password(strings.Repeat("ab", 50_000)), strings.Repeat("ab", 50_000) + "!", ""},
		"in a URL":          {password("hunter2"), "see https://x/hunter2?a=b", "see https://x/REDACTED"},
	} {
		t.Run(name, func(t *testing.T) {
			var s upstream.Secrets
			s.AddCredentials(tt.config)
			if got := s.Clean(tt.text); got != tt.want {
				t.Errorf("%q becomes %q, want %q", tt.text, got, tt.want)
			}
			if found := strings.Contains(tt.want, "RED"); found && !s.Contains(tt.text) {
				t.Errorf("%q contains no secret", tt.text)
			}
		})
	}
}

// TestSecretsOverlap takes the parts of secrets that have something in common.
func TestSecretsOverlap(t *testing.T) {
	var s upstream.Secrets
	s.Add("abcdefgh", "efghijkl", "cdef-not", "", "abcdefghijkl-and-more")
	if got, want := s.Clean("1 abcdefghijkl 2 abcdefghijkl-and-mor 3"), "1 REDACTED 2 REDACTED 3"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestSecretsAreBounded has tokens forgotten, and not what they were got for.
func TestSecretsAreBounded(t *testing.T) {
	var s upstream.Secrets
	s.AddCredentials(password("hunter2"))
	token := func(of, i int) string { return fmt.Sprintf("token-%d-%06d", of, i) }
	const many = 2000
	var all sync.WaitGroup
	for of := range 4 {
		all.Go(func() {
			for i := range many {
				s.AddToken(token(of, i))
				s.Clean("hunter2")
			}
		})
	}
	all.Wait()
	// Which of those are left is up to the scheduler, but not after these.
	const last = 4
	for i := range many {
		s.AddToken(token(last, i))
	}
	for _, forgotten := range []string{token(0, 0), token(3, many-1), token(last, 0), token(last, many-600)} {
		if s.Contains(forgotten) {
			t.Errorf("%s is remembered", forgotten)
		}
	}
	for _, remembered := range []string{token(last, many-1), token(last, many-300), "hunter2"} {
		if !s.Contains(remembered) {
			t.Errorf("%s is forgotten", remembered)
		}
	}
}

// Whatever a remote sends, and whichever tokens it has given out before, looking
// through it takes little.
func TestSecretsCostLittle(t *testing.T) {
	var s upstream.Secrets
	for i := range 512 {
		s.AddToken(strings.Repeat("a", 16) + fmt.Sprintf("Z/%d+=", i))
	}
	for name, text := range map[string]string{
		"starts of tokens": strings.Repeat("a", 256<<10),
		"tokens":           strings.Repeat(strings.Repeat("a", 16)+"Z/1+=", 20<<10),
	} {
		result := testing.Benchmark(func(b *testing.B) {
			for b.Loop() {
				if got := s.CleanTo(4<<10, text); strings.Contains(got, "aaaa") {
					b.Errorf("%s: %.100q", name, got)
				}
			}
		})
		t.Logf("%s: %v, %d bytes", name, time.Duration(result.NsPerOp()), result.AllocedBytesPerOp())
		if n := result.AllocedBytesPerOp(); n > 1<<20 {
			t.Errorf("%s: %d bytes are allocated", name, n)
		}
	}
	if !s.Contains(strings.Repeat("x", 17<<10)) {
		t.Error("what is too long to be looked through is taken for harmless")
	}
}

// What is cut off leaves no start of a secret.
func TestNothingIsLeftOfWhatIsCut(t *testing.T) {
	var s upstream.Secrets
	secret := "bWU6Y2FuYXJ5UGFzc3dvcmQ="
	s.Add(secret)
	for n := range 60 {
		for _, most := range []int{10, 400} {
			text := strings.Repeat(" ", 16*most-n) + secret + " and so on"
			if got := s.CleanTo(most, text); strings.Contains(got, secret[:4]) {
				t.Errorf("%d bytes before the end: %q", n, got)
			}
		}
	}
}

// A secret that was taken apart by what is cleaned away is not put together again.
func TestSecretsWithSpaces(t *testing.T) {
	var s upstream.Secrets
	s.Add("correct horse")
	if got := s.Clean("no: correct\x00\n horse"); got != "no: REDACTED" {
		t.Errorf("%q", got)
	}
}

// FuzzSecrets has secrets found in whatever is around them.
func FuzzSecrets(f *testing.F) {
	f.Add("hunter2", "wrong password ", "!")
	f.Add("abababababababababac", "abab", "ab")
	f.Add("p\xc3\x28 \n%2F", "https://", "@host?x")
	f.Fuzz(func(t *testing.T, secret, before, after string) {
		if len(secret) < 6 || len(secret) > 60 {
			return // short ones are looked for as words, and long ones by their start
		}
		var s upstream.Secrets
		s.Add(secret)
		text := before + secret + after
		if got := s.CleanTo(1<<20, text); strings.Contains(got, secret) && !strings.Contains("REDACTED", secret) && !strings.Contains(before+"REDACTED"+after, secret) {
			t.Errorf("%q becomes %q", text, got)
		}
		if !s.Contains(text) {
			t.Errorf("%q does not contain %q", text, secret)
		}
	})
}
