package admin

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"
)

// A gate reads the token each time, and says what to mend.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, hook := test.NewNullLogger()
		log.SetLevel(logrus.TraceLevel)
		now, failure, passed := goodToken, error(nil), 0
		gate := NewGate(GateOptions{
			Token: func(context.Context) (string, error) { return now, failure },
			Realm: "registry-module seed", Setting: "REGISTRY_SEED_TOKENFILE", Purpose: "seed by the admin address",
			How: "registry-module seed --token-file", Log: log,
		}).Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { passed++ }))
		try := func(header string, status int, challenge, text string) {
			t.Helper()
			w := send(t, gate, "POST", "/seed", "", "Authorization", header)
			if w.Code != status || w.Header().Get("WWW-Authenticate") != challenge || !strings.Contains(w.Body.String(), text) {
				t.Errorf("%q: status %d, %q, %s", header, w.Code, w.Header(), w.Body)
			}
		}
		const missing, invalid = `Bearer realm="registry-module seed"`, `Bearer realm="registry-module seed", error="invalid_token"`
		try("Bearer "+goodToken, 200, "", "")
		try("", 401, missing, "send that of REGISTRY_SEED_TOKENFILE (registry-module seed --token-file)")
		try("Basic x", 401, missing, "")
		try("Bearer x", 401, invalid, "")
		now = "another"
		try("Bearer "+goodToken, 401, invalid, "")
		try("Bearer another", 200, "", "")
		now = ""
		try("Bearer ", 503, "", "see its log")
		failure = errors.New("no such file")
		try("Bearer another", 503, "", "see its log")
		if passed != 2 {
			t.Errorf("%d have passed", passed)
		}
		want := []string{"somebody", "somebody", "somebody", "somebody", "mend the file of REGISTRY_SEED_TOKENFILE", "mend"}
		for i, e := range hook.AllEntries() {
			if i >= len(want) || !strings.Contains(e.Message, want[i]) {
				t.Errorf("logged: %s", e.Message)
			}
		}
	})
}

// Who leaves while an attempt is slowed leaves nothing.
func TestGateWhenClientsLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := NewGate(GateOptions{Token: token, Pause: time.Hour})
		ctx, cancel := context.WithCancel(t.Context())
		for range MaxAttempts {
			go gate.Admit(ctx, "x", true, "")
		}
		synctest.Wait()
		cancel()
		synctest.Wait()
		if len(gate.attempts) != 0 || len(gate.turn) != 0 {
			t.Error("somebody still waits")
		}
	})
}

func TestBearer(t *testing.T) {
	tests := []struct {
		header, token string
		ok            bool
	}{
		{"Bearer x", "x", true},
		{"bEARER   x ", "x", true},
		{"Bearer ", "", true},
		{"Bearer", "", false},
		{"", "", false},
		{"Basic x", "", false},
		{"Bearerx y", "", false},
		{" Bearer x", "", false},
	}
	for _, tt := range tests {
		if token, ok := Bearer(http.Header{"Authorization": {tt.header}}); token != tt.token || ok != tt.ok {
			t.Errorf("%q: %q, %v", tt.header, token, ok)
		}
	}
}
