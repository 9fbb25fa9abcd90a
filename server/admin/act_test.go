package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"

	"registry-module/cache"
)

const (
	isJSON     = "application/json"
	isFormType = "application/x-www-form-urlencoded"
)

// Each action does what it says, by JSON and by form.
func TestActions(t *testing.T) {
	tests := []struct {
		action, json, form, want string
	}{
		{"pin", `{"image":"a/b:*"}`, "image=a/b:*", "pin a/b:*"},
		{"unpin", `{"image":"a/b"}`, "image=+a/b+", "unpin a/b"},
		{"remove", `{"image":"a/b:1"}`, "image=a/b:1", "remove a/b:1 false false"},
		{"remove", `{"image":"a/b","all":true,"force":true}`, "image=a/b&all=on&force=true", "remove a/b true true"},
		{"refresh", `{"image":"a/b:1"}`, "image=a/b:1", "refresh a/b:1"},
		{"seed", `{"images":["a:1","b:2"],"platforms":["linux/arm64"]}`, "images=a:1%0D%0Ab:2&platforms=linux/arm64", `seed ["a:1" "b:2"] ["linux/arm64"]`},
		{"seed", `{"images":["a:1"]}`, "images=a:1,", `seed ["a:1"] []`},
		{"offline", `{"mode":"on"}`, "mode=on", "offline on"},
		{"reload", ``, "", "reload"},
		{"reload", `{}`, "", "reload"},
	}
	does := &fakeActions{}
	s := New(Options{Actions: does, Token: token})
	defer s.Close()
	for _, tt := range tests {
		w := send(t, s, "POST", "/actions/"+tt.action, tt.json, "Authorization", "Bearer "+goodToken, "Content-Type", isJSON)
		if a := decode[answer](t, w.Body.Bytes()); w.Code != 200 || a.Message != "done: "+tt.want || does.last() != tt.want {
			t.Errorf("%s %s: status %d, %+v", tt.action, tt.json, w.Code, a)
		}
		does.done = nil
		// The token of a form is a field of it, and a browser is sent back to the page.
		w = send(t, s, "POST", "/actions/"+tt.action, tt.form+"&token="+goodToken, "Content-Type", isFormType, "Accept", "text/html,*/*;q=0.8",
			"Origin", "http://example.com", "Sec-Fetch-Site", "same-origin")
		said, ok := s.Said(saidIn(t, w))
		if w.Code != http.StatusSeeOther || !ok || !said.OK || said.Text != "done: "+tt.want || does.last() != tt.want {
			t.Errorf("%s %s: status %d, %+v", tt.action, tt.form, w.Code, said)
		}
	}
	if !s.State(t.Context()).Actions {
		t.Error("there are no actions")
	}
}

// saidIn is the number that the page is to show.
func saidIn(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	to, err := url.Parse(w.Header().Get("Location"))
	if err != nil || to.Path != "/" || to.Host != "" || strings.Contains(to.String(), goodToken) {
		t.Errorf("%v, %v", to, err)
	}
	return to.Query().Get(SaidParameter)
}

// What cannot be asked for is refused with what to write, and nothing is done.
func TestBadActions(t *testing.T) {
	tests := []struct {
		name, action, body, contentType string
		status                          int
		want                            string
	}{
		{"nothing", "pin", "", isJSON, 400, "in the field image"},
		{"no JSON", "pin", "image", isJSON, 400, "write an object"},
		{"a list", "pin", `["a"]`, isJSON, 400, "write an object"},
		{"something behind", "pin", `{"image":"a"} {"image":"b"}`, isJSON, 400, "behind"},
		{"unknown field", "pin", `{"imgae":"a"}`, isJSON, 400, "imgae"},
		{"wrong type", "pin", `{"image":1}`, isJSON, 400, "write an object"},
		{"control characters", "pin", `{"image":"a\u0000b"}`, isJSON, 400, "cannot be seen"},
		{"direction", "pin", `{"image":"a\u202eb"}`, isJSON, 400, "cannot be seen"},
		{"spaces", "remove", `{"image":"a b"}`, isJSON, 400, "without spaces"},
		{"long", "remove", `{"image":"` + strings.Repeat("a", 2000) + `"}`, isJSON, 400, "1024 bytes"},
		{"large", "seed", `{"images":["` + strings.Repeat("a", 1<<20) + `"]}`, isJSON, 413, "larger"},
		{"large form", "seed", "images=" + strings.Repeat("a", 1<<20), isFormType, 413, "larger"},
		{"no images", "seed", `{"images":[]}`, isJSON, 400, "1 to 10000"},
		{"many images", "seed", `{"images":["a"` + strings.Repeat(`,"a"`, maxNames) + `]}`, isJSON, 400, "1 to 10000"},
		{"bad image", "seed", `{"images":["a",""]}`, isJSON, 400, "write the name"},
		{"bad platform", "seed", `{"images":["a"],"platforms":["x\ny"]}`, isJSON, 400, "cannot be seen"},
		{"no mode", "offline", `{}`, isJSON, 400, "on, off or auto"},
		{"wrong mode", "offline", `{"mode":"maybe"}`, isJSON, 400, "on, off or auto"},
		{"wrong box", "remove", "image=a&all=perhaps", isFormType, 400, "field all"},
		{"broken form", "remove", "image=%zz", isFormType, 400, "cannot be read"},
		{"in the address", "remove?image=a", "", isJSON, 400, "in the field image"},
		{"other type", "pin", "image: a", "application/yaml", 415, "application/json"},
		{"files", "pin", "x", "multipart/form-data; boundary=x", 415, "application/json"},
		{"text", "pin", `{"image":"a"}`, "text/plain", 415, "application/json"},
	}
	does := &fakeActions{}
	s := New(Options{Actions: does, Token: token})
	defer s.Close()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := send(t, s, "POST", "/actions/"+tt.action, tt.body, "Authorization", "Bearer "+goodToken, "Content-Type", tt.contentType)
			if a := decode[answer](t, w.Body.Bytes()); w.Code != tt.status || !strings.Contains(a.Error, tt.want) {
				t.Errorf("status %d, %+v", w.Code, a)
			}
			if does.last() != "" {
				t.Errorf("%s was done", does.last())
			}
		})
	}
}

// Errors have their statuses, and no secrets.
func TestFailingActions(t *testing.T) {
	tests := []struct {
		err    error
		status int
	}{
		{fmt.Errorf("x: %w", ErrInvalid), 400},
		{ErrBusy, 409},
		{fmt.Errorf("a is not removed: %w", cache.ErrPinned), 409},
		{cache.ErrNotFound, 404},
		{cache.ErrRateLimited, 429},
		{&cache.UpstreamError{Kind: cache.ErrUnavailable, Err: cache.ErrOffline}, 503},
		{cache.ErrUnavailable, 503},
		{cache.ErrDenied, 502},
		{cache.ErrNoSpace, 507},
		{context.DeadlineExceeded, 504},
		{errors.New("at https://me:secret@example.com/x?token=secret"), 500},
	}
	does := &fakeActions{}
	log, hook := test.NewNullLogger()
	s := New(Options{Actions: does, Token: token, Log: log})
	defer s.Close()
	for _, tt := range tests {
		does.err = tt.err
		w := send(t, s, "POST", "/actions/reload", "", "Authorization", "Bearer "+goodToken)
		if a := decode[answer](t, w.Body.Bytes()); w.Code != tt.status || a.Error == "" || a.Message != "" || strings.Contains(a.Error, "secret") {
			t.Errorf("%v: status %d, %+v", tt.err, w.Code, a)
		}
		w = send(t, s, "POST", "/actions/reload", "token="+goodToken, "Content-Type", isFormType, "Accept", "text/html")
		if said, ok := s.Said(saidIn(t, w)); w.Code != 303 || !ok || said.OK || strings.Contains(said.Text, "secret") {
			t.Errorf("%v: status %d, %+v", tt.err, w.Code, said)
		}
	}
	for _, e := range hook.AllEntries() {
		if text, err := e.String(); err != nil || strings.Contains(text, "secret") || strings.Contains(text, goodToken) {
			t.Errorf("%v, %s", err, text)
		}
	}
}

// Without the right token nothing is done, whoever asks in whatever way, and the pages of
// others are refused before their token is looked at.
func TestActionsNeedTheToken(t *testing.T) {
	const bad = "c0ffee0123456789bad!"
	tests := []struct {
		name   string
		header []string
		path   string
		body   string
		status int
	}{
		{"nothing", nil, "", "", 401},
		{"JSON without token", []string{"Content-Type", isJSON}, "", `{"token":"` + goodToken + `"}`, 401},
		{"wrong", []string{"Authorization", "Bearer " + bad}, "", "", 401},
		{"half", []string{"Authorization", "Bearer " + goodToken[:16]}, "", "", 401},
		{"empty", []string{"Authorization", "Bearer "}, "", "", 401},
		{"Basic", []string{"Authorization", "Basic " + goodToken}, "", "", 401},
		{"cookie", []string{"Cookie", "token=" + goodToken + "; Authorization=Bearer " + goodToken}, "", "", 401},
		{"in the address", nil, "?token=" + goodToken, "", 401},
		{"form without token", []string{"Content-Type", isFormType}, "", "x=y", 401},
		{"form with a wrong one", []string{"Content-Type", isFormType}, "", "token=" + bad, 401},
		{"form with one in the address", []string{"Content-Type", isFormType}, "?token=" + goodToken, "", 401},
		{"the header counts, not the field", []string{"Content-Type", isFormType, "Authorization", "Bearer " + bad}, "", "token=" + goodToken, 401},
		{"another site", []string{"Authorization", "Bearer " + goodToken, "Sec-Fetch-Site", "cross-site"}, "", "", 403},
		{"another host of the site", []string{"Authorization", "Bearer " + goodToken, "Sec-Fetch-Site", "same-site"}, "", "", 403},
		{"another origin", []string{"Authorization", "Bearer " + goodToken, "Origin", "http://evil.example"}, "", "", 403},
		{"no origin", []string{"Content-Type", isFormType, "Origin", "null"}, "", "token=" + goodToken, 403},
		{"right", []string{"Authorization", "bearer  " + goodToken}, "", "", 200},
		{"right, from the page", []string{"Authorization", "Bearer " + goodToken, "Origin", "http://example.com"}, "", "", 200},
		{"right, by form", []string{"Content-Type", isFormType}, "", "token=" + goodToken, 200},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, hook := test.NewNullLogger()
				log.SetLevel(logrus.TraceLevel)
				does := &fakeActions{}
				s := New(Options{Actions: does, Token: token, Log: log})
				defer s.Close()
				before := time.Now()
				w := send(t, s, "POST", "/actions/reload"+tt.path, tt.body, tt.header...)
				if w.Code != tt.status || (does.last() != "") != (tt.status == 200) {
					t.Errorf("status %d, %s, done: %q", w.Code, w.Body, does.last())
				}
				if took := time.Since(before); (took >= FailurePause) != (tt.status == 401) {
					t.Errorf("it took %v", took)
				}
				if challenge := w.Header().Get("WWW-Authenticate"); strings.HasPrefix(challenge, "Bearer realm=") != (tt.status == 401) {
					t.Errorf("challenge %q", challenge)
				}
				texts := w.Body.String()
				for _, e := range hook.AllEntries() {
					text, _ := e.String()
					texts += text
				}
				if strings.Contains(texts, goodToken) || strings.Contains(texts, bad) {
					t.Errorf("a token is in %s", texts)
				}
			})
		})
	}
}

// A wrong token in a form brings one back to the page, which says so.
func TestWrongTokenInForm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{Actions: &fakeActions{}, Token: token})
		defer s.Close()
		w := send(t, s, "POST", "/actions/reload", "token=wrong", "Content-Type", isFormType, "Accept", "text/html")
		if said, ok := s.Said(saidIn(t, w)); w.Code != 303 || !ok || said.OK || !strings.Contains(said.Text, "REGISTRY_ADMIN_TOKENFILE") {
			t.Errorf("status %d, %+v", w.Code, said)
		}
		if _, ok := s.Said("guess"); ok {
			t.Error("something was said")
		}
		var first string
		for i := range 2 * maxSaidTexts {
			id := s.said.keep(Said{Text: "x"})
			if i == 0 {
				first = id
			}
		}
		if _, ok := s.Said(first); ok || len(s.said.texts) != maxSaidTexts || len(s.said.order) != maxSaidTexts {
			t.Errorf("%d texts, %d numbers", len(s.said.texts), len(s.said.order))
		}
	})
}

// A body that does not come is not waited for for ever, and does not count as an action.
func TestBodyThatDoesNotCome(t *testing.T) {
	does := &fakeActions{}
	s := New(Options{Actions: does, Token: token})
	defer s.Close()
	r := httptest.NewRequestWithContext(t.Context(), "POST", "/actions/reload", io.MultiReader(strings.NewReader("{}"), failingReader{}))
	r.Header.Set("Authorization", "Bearer "+goodToken)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if w.Code != 400 || does.last() != "" {
		t.Errorf("status %d, %q", w.Code, does.last())
	}
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// After an action everybody sees what is so now.
func TestActionsAreSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mode := "off"
		s := New(Options{Actions: &fakeActions{}, Token: token, Offline: func() Offline { return Offline{Mode: mode} }})
		defer s.Close()
		before, _ := json.Marshal(s.State(t.Context()))
		mode = "on"
		send(t, s, "POST", "/actions/offline", `{"mode":"on"}`, "Authorization", "Bearer "+goodToken)
		state := s.State(t.Context())
		if after, _ := json.Marshal(state); state.Offline.Mode != "on" || state.Generation == decode[State](t, before).Generation {
			t.Errorf("%s, before %s", after, before)
		}
	})
}

// Who has the token is not held up by many who do not; those are.
func TestManyAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{Actions: &fakeActions{}, Token: token})
		defer s.Close()
		for range MaxAttempts {
			go s.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), "POST", "/actions/reload", nil))
		}
		synctest.Wait()
		before := time.Now()
		if w := send(t, s, "POST", "/actions/reload", ""); w.Code != http.StatusTooManyRequests {
			t.Errorf("status %d", w.Code)
		}
		if w := send(t, s, "POST", "/actions/reload", "", "Authorization", "Bearer "+goodToken); w.Code != http.StatusOK {
			t.Errorf("status %d", w.Code)
		}
		if took := time.Since(before); took != 0 {
			t.Errorf("it took %v", took)
		}
		time.Sleep(MaxAttempts * FailurePause)
		synctest.Wait()
		if n := len(s.gate.attempts); n != 0 {
			t.Errorf("%d attempts are left", n)
		}
	})
}

// Nothing is read of who has a wrong token, and little of who sends one in a form.
func TestLittleIsReadWithoutToken(t *testing.T) {
	tests := []struct {
		name   string
		header []string
		status int
		most   int64
	}{
		{"JSON", nil, 401, 0},
		{"JSON with a wrong token", []string{"Authorization", "Bearer x"}, 401, 0},
		{"form", []string{"Content-Type", isFormType}, 413, maxForm + 1},
		{"form with a wrong token in the header", []string{"Content-Type", isFormType, "Authorization", "Bearer x"}, 401, 0},
		{"another page", []string{"Content-Type", isFormType, "Sec-Fetch-Site", "cross-site"}, 403, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := New(Options{Actions: &fakeActions{}, Token: token})
				defer s.Close()
				body := &countingReader{r: strings.NewReader(strings.Repeat("a", 1<<20))}
				r := httptest.NewRequestWithContext(t.Context(), "POST", "/actions/reload", body)
				for i := 0; i < len(tt.header); i += 2 {
					r.Header.Set(tt.header[i], tt.header[i+1])
				}
				w := httptest.NewRecorder()
				s.ServeHTTP(w, r)
				if w.Code != tt.status || body.n > tt.most {
					t.Errorf("status %d, %d bytes read", w.Code, body.n)
				}
			})
		})
	}
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
