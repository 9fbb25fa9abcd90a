package config

import (
	"errors"
	"strings"
	"testing"
)

func TestLogLevel(t *testing.T) {
	for name, tt := range map[string]struct {
		file    string
		environ []string
		want    string
		warning string
	}{
		"nothing":            {"", nil, "info", ""},
		"of the runtime":     {"", []string{"RuntimeLogLevel=debug"}, "debug", ""},
		"in any case":        {"", []string{"RuntimeLogLevel= Warning "}, "warn", ""},
		"information":        {"", []string{"RuntimeLogLevel=Information"}, "info", ""},
		"verbose":            {"", []string{"RuntimeLogLevel=VERBOSE"}, "debug", ""},
		"error":              {"", []string{"RuntimeLogLevel=Error"}, "error", ""},
		"critical":           {"", []string{"RuntimeLogLevel=critical"}, "fatal", ""},
		"fatal":              {"", []string{"RuntimeLogLevel=Fatal"}, "fatal", ""},
		"empty":              {"", []string{"RuntimeLogLevel="}, "info", ""},
		"unknown":            {"", []string{"RuntimeLogLevel=loud"}, "info", `RuntimeLogLevel: "loud" is not a log level and is ignored: write debug, info, warning, error or critical, or set REGISTRY_LOG_LEVEL`},
		"ours counts":        {"", []string{"RuntimeLogLevel=debug", "REGISTRY_LOG_LEVEL=error"}, "error", ""},
		"ours, old":          {"", []string{"RuntimeLogLevel=debug", "REGISTRY_LOGLEVEL=error"}, "error", ""},
		"unknown, and ours":  {"", []string{"RuntimeLogLevel=loud", "REGISTRY_LOG_LEVEL=info"}, "info", ""},
		"that of the file":   {"version: 0.1\nlog: {level: warn}", []string{"RuntimeLogLevel=debug"}, "warn", ""},
		"only that variable": {"", []string{"RUNTIMELOGLEVEL=debug", "runtimeloglevel=debug"}, "info", ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := mustLoad(t, tt.file, tt.environ...)
			if got := string(c.Stock.Log.Level); got != tt.want {
				t.Errorf("level %s, want %s", got, tt.want)
			}
			if got := strings.Join(c.Warnings, "\n"); got != tt.warning {
				t.Errorf("warnings are %q, want %q", got, tt.warning)
			}
		})
	}
}

// Who tells of problems knows in which form, unless that is one of them.
func TestProblemsHaveTheFormOfTheLog(t *testing.T) {
	for form, want := range map[string]string{"iotedge": "iotedge", "json": "json", "text": "text", "": "", "xml": ""} {
		_, err := loadWith(t, "", "REGISTRY_LOG_FORMATTER="+form, "REGISTRY_CACHE_MAXSIZE=lots")
		errs, ok := errors.AsType[*Errors](err)
		if !ok || errs.LogFormatter != want {
			t.Errorf("%q: got %+v, want %q", form, errs, want)
		}
	}
}
