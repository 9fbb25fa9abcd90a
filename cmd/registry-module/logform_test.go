package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/sirupsen/logrus"

	"registry-module/config"
)

func TestEdgeForm(t *testing.T) {
	at := time.Date(2026, 1, 31, 12, 0, 0, 7_900_000, time.UTC)
	for name, tt := range map[string]struct {
		level   logrus.Level
		at      time.Time
		message string
		fields  logrus.Fields
		want    string
	}{
		"information": {logrus.InfoLevel, at, "message", logrus.Fields{"key": "value"}, "<6> 2026-01-31 12:00:00.007 +00:00 [INF] - message key=value"},
		"zone":        {logrus.InfoLevel, at.In(time.FixedZone("", -90*60)), "x", nil, "<6> 2026-01-31 10:30:00.007 -01:30 [INF] - x"},
		"trace":       {logrus.TraceLevel, at, "x", nil, "<7> 2026-01-31 12:00:00.007 +00:00 [DBG] - x"},
		"debug":       {logrus.DebugLevel, at, "x", nil, "<7> 2026-01-31 12:00:00.007 +00:00 [DBG] - x"},
		"warning":     {logrus.WarnLevel, at, "x", nil, "<4> 2026-01-31 12:00:00.007 +00:00 [WRN] - x"},
		"error":       {logrus.ErrorLevel, at, "x", nil, "<3> 2026-01-31 12:00:00.007 +00:00 [ERR] - x"},
		"fatal":       {logrus.FatalLevel, at, "x", nil, "<2> 2026-01-31 12:00:00.007 +00:00 [CRIT] - x"},
		"sorted": {logrus.InfoLevel, at, "x", logrus.Fields{"c": 1, "a": errors.New("two words"), "b": []byte("b"), "d": nil},
			`<6> 2026-01-31 12:00:00.007 +00:00 [INF] - x a="two words" b=b c=1 d=<nil>`},
		"quoted": {logrus.InfoLevel, at, `say "x"`, logrus.Fields{"a": "", "b": `"`, "c": "x=y", "d": `\`, "e f": "é"},
			`<6> 2026-01-31 12:00:00.007 +00:00 [INF] - say "x" a="" b="\"" c="x=y" d="\\" "e f"=é`},
		"one line": {logrus.InfoLevel, at, "a\r\n<3> b\x00\xff\u2028", logrus.Fields{"k\n": "v\n\x1b[1m"},
			`<6> 2026-01-31 12:00:00.007 +00:00 [INF] - a\r\n<3> b\x00\xff\u2028 "k\n"="v\n\x1b[1m"`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := edgeFormatter{}.Format(&logrus.Entry{Level: tt.level, Time: tt.at, Message: tt.message, Data: tt.fields})
			if err != nil || string(got) != tt.want+"\n" {
				t.Errorf("%v, got\n%swant\n%s", err, got, tt.want)
			}
		})
	}
}

// FuzzEdgeForm checks that an entry is one line of text, and that fields end where they
// seem to.
func FuzzEdgeForm(f *testing.F) {
	f.Add("message", "key", "value")
	f.Add("a\nb\xff", "k k", "\"\\\r")
	field := regexp.MustCompile(`^([^ "]+|"([^"\\]|\\.)*")=([^ "]+|"([^"\\]|\\.)*")$`)
	f.Fuzz(func(t *testing.T, message, key, value string) {
		got, err := edgeFormatter{}.Format(&logrus.Entry{Level: logrus.InfoLevel, Message: message, Data: logrus.Fields{key: value}})
		text, ended := strings.CutSuffix(string(got), "\n")
		if err != nil || !ended || strings.IndexFunc(text, notPrintable) >= 0 {
			t.Fatalf("%v, %q is not a line of text", err, got)
		}
		head := fmt.Sprintf("<6> 0001-01-01 00:00:00.000 +00:00 [INF] - %s ", escaped(message))
		rest, ok := strings.CutPrefix(text, head)
		if !ok || !field.MatchString(rest) {
			t.Errorf("%q does not begin with %q, or has another field behind it", text, head)
		}
	})
}

// The program's log and that of the embedded app have the form that is configured.
func TestEdgeLog(t *testing.T) {
	var out bytes.Buffer
	cfg := testConfig(t, t.TempDir(), "")
	cfg.Stock.Log = configuration.Log{Formatter: "iotedge", Level: "debug", Fields: map[string]any{"site": "a b"}}
	log := newLogger(cfg, &out)
	quiet(t)
	log.WithError(errors.New("why")).Warn("something")
	logrus.Debug("of the app")
	lines := strings.Split(out.String(), "\n")
	for i, want := range []string{`^<4> \S+ \S+ \S+ \[WRN\] - something error=why site="a b"$`, `^<7> \S+ \S+ \S+ \[DBG\] - of the app$`, "^$"} {
		if i >= len(lines) || !regexp.MustCompile(want).MatchString(lines[i]) {
			t.Errorf("line %d of %q is not %s", i, lines, want)
		}
	}
}

// reasonChild makes the test program one that runs main.
const reasonChild = "REGISTRY_MODULE_TEST_REASON_CHILD"

// The last line of what a server says that cannot work is why, in the form of its log.
func TestLastLineIsTheReason(t *testing.T) {
	if os.Getenv(reasonChild) != "" {
		os.Args = []string{"registry-module", "serve"}
		main()
		return
	}
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	noData := "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=" + file + "/x"
	wrong := []string{"REGISTRY_CACHE_MAXSIZE=lots", "REGISTRY_HTTP_SECRET_FILE=/absent"}
	const edge = `^<2> \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} [+-]\d\d:\d\d \[CRIT\] - registry-module ends: `
	for name, tt := range map[string]struct {
		environ []string
		want    string // of the last line
	}{
		"no data directory, iotedge":        {[]string{"REGISTRY_LOG_FORMATTER=iotedge", noData}, edge + `.*not a directory.*$`},
		"no data directory, fatal only":     {[]string{"REGISTRY_LOG_FORMATTER=iotedge", "RuntimeLogLevel=critical", noData}, edge + `.*not a directory.*$`},
		"no data directory, json":           {[]string{"REGISTRY_LOG_FORMATTER=json", noData}, `^\{"level":"fatal","msg":"registry-module ends: .*not a directory`},
		"no data directory, text":           {[]string{noData}, `^registry-module: .*not a directory`},
		"configuration, iotedge":            {append([]string{"REGISTRY_LOG_FORMATTER=iotedge"}, wrong...), edge + `2 errors in the configuration: REGISTRY_CACHE_MAXSIZE .*; REGISTRY_HTTP_SECRET_FILE .*$`},
		"configuration, text":               {wrong, `^  REGISTRY_HTTP_SECRET_FILE .*absent`},
		"configuration, form is not known":  {append([]string{"REGISTRY_LOG_FORMATTER=xml"}, wrong...), `^  REGISTRY_LOG_FORMATTER `},
		"fields of the log, and their form": {[]string{"REGISTRY_LOG_FORMATTER=iotedge", "REGISTRY_LOG_FIELDS_SITE=a", noData}, edge + `.* site=a$`},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestLastLineIsTheReason$")
			cmd.Env = append(os.Environ(), append(tt.environ, reasonChild+"=1")...)
			out, err := cmd.CombinedOutput()
			if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != exitFailed {
				t.Fatalf("%v, %s", err, out)
			}
			lines := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
			if last := lines[len(lines)-1]; !regexp.MustCompile(tt.want).MatchString(last) {
				t.Errorf("the last line is\n%s\nwant\n%s", last, tt.want)
			}
		})
	}
}

func TestJoinLines(t *testing.T) {
	for text, want := range map[string]string{
		"one":                      "one",
		"two:\n  a: b\n  c":        "two: a: b; c",
		"\n\njoined\nby Join\n":    "joined; by Join",
		"":                         "",
		"1 error:\n  a b:\n c\n\n": "1 error: a b: c",
	} {
		if got := joinLines(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
	if err := inFormOf(&config.Config{}, nil); err != nil {
		t.Errorf("no error becomes %v", err)
	}
}
