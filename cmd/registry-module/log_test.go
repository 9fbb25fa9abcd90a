package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/sirupsen/logrus"
)

// The log has no secrets, at its most talkative level and in each of its forms either.
func TestNoSecretsInLog(t *testing.T) {
	for _, form := range []string{"text", "json", "logstash", "iotedge"} {
		t.Run(form, func(t *testing.T) {
			quiet(t)
			out, err := os.Create(filepath.Join(t.TempDir(), "log"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = out.Close() }() // it was read
			stdout, level := os.Stdout, logrus.GetLevel()
			os.Stdout = out
			defer func() { os.Stdout = stdout; logrus.SetLevel(level) }()
			cfg := testConfig(t, t.TempDir(), "")
			cfg.Stock.Log.Level, cfg.Stock.Log.Formatter = "debug", form
			cfg.Stock.HTTP.Secret = "hush-1"
			cfg.Stock.Notifications.Endpoints = []configuration.Endpoint{{
				Name: "somebody", URL: "http://user:hush-2@127.0.0.1:9/", Timeout: time.Second, Threshold: 1, Backoff: time.Second,
				Headers: http.Header{"Authorization": {"Bearer hush-3", `quoted "hush-4"`}},
			}}
			stop := serving(t, cfg)
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+cfg.Addr+"/v2/a/b/manifests/x", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.SetBasicAuth("user", "hush-5")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close() // nothing of it is of interest
			stop()
			text, err := os.ReadFile(out.Name())
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(text), "configuring endpoint somebody") {
				t.Errorf("the log does not tell of the endpoint: %s", text)
			}
			for line := range strings.Lines(string(text)) {
				if strings.Contains(line, "hush") {
					t.Errorf("a secret: %s", line)
				}
			}
		})
	}
}
