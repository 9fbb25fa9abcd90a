package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAdminSettings(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := loadWith(t, "", "REGISTRY_ADMIN_TOKENFILE="+token, "REGISTRY_ADMIN_PPROF=true")
	if err != nil || c.AdminTokenFile != token || !c.PProf {
		t.Errorf("%+v, %v", c, err)
	}
	c, err = loadWith(t, "version: 0.1\nadmin: {tokenfile: "+token+", pprof: true}\n")
	if err != nil || c.AdminTokenFile != token || !c.PProf {
		t.Errorf("from a file: %+v, %v", c, err)
	}
	for value, want := range map[string]string{
		"REGISTRY_ADMIN_TOKENFILE=/nowhere": `REGISTRY_ADMIN_TOKENFILE (admin.tokenfile): "/nowhere" cannot be read`,
		"REGISTRY_ADMIN_PPROF=perhaps":      "REGISTRY_ADMIN_PPROF (admin.pprof)",
	} {
		if _, err := loadWith(t, "", value); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", value, err, want)
		}
	}
}

func TestSampledRequests(t *testing.T) {
	for value, want := range map[string]float64{
		"": 0, "1": 1, "0": 0, "0.01": 0.01, "1%": 0.01, " 2.5 % ": 0.025, "100%": 1, "1e-3": 0.001,
	} {
		c, err := loadWith(t, "", "REGISTRY_LOG_ACCESSLOG_SAMPLE="+value)
		if err != nil || c.SampleRequests != want {
			t.Errorf("%q: %v, want %v (%v)", value, c.SampleRequests, want, err)
		}
	}
	for _, value := range []string{"2", "-1", "101%", "NaN", "Inf", "some", "1/100"} {
		if _, err := loadWith(t, "", "REGISTRY_LOG_ACCESSLOG_SAMPLE="+value); err == nil || !strings.Contains(err.Error(), "REGISTRY_LOG_ACCESSLOG_SAMPLE (log.accesslog.sample)") {
			t.Errorf("%q: %v", value, err)
		}
	}
}
