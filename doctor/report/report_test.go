package report_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"registry-module/doctor/report"
)

var sampleReport = report.NewReport(
	[]report.Finding{
		{Step: "data-dir", Status: report.OK, Text: "/var/lib/registry is writable for user 65532", Took: 100 * time.Microsecond},
		{Step: "space", Status: report.Warning, Text: "600 MiB of 8.0 GiB are free", Advice: "Make room."},
	},
	[]report.RemoteReport{
		{Number: 1, Host: "registry-1.docker.io", Alias: "hub", Image: "library/hello-world:latest", Checks: []report.Finding{
			{Step: "resolve", Status: report.OK, Text: "registry-1.docker.io → 192.0.2.1", Took: 12345 * time.Microsecond},
			{Step: "tls", Status: report.Failed, Text: "signed by Bücher CA, which this machine does not trust",
				Advice: "Set REGISTRY_PROXY_CA to a file.", Took: 31 * time.Second},
			{Step: "api", Status: report.Skipped, Text: "not tried"},
		}},
		{Number: 2, Host: "quay.io", Checks: []report.Finding{{Step: "resolve", Status: report.OK, Text: "quay.io → 192.0.2.2"}}},
	})

const (
	goldenText = `Remote 1: registry-1.docker.io (hub)
  ✓ resolve  registry-1.docker.io → 192.0.2.1 (12 ms)
  ✗ tls      signed by Bücher CA, which this machine does not trust (31 s)
             → Set REGISTRY_PROXY_CA to a file.
  - api      not tried

Remote 2: quay.io
  ✓ resolve  quay.io → 192.0.2.2

This machine
  ✓ data-dir  /var/lib/registry is writable for user 65532
  ! space     600 MiB of 8.0 GiB are free
              → Make room.

1 check has failed, 1 warning.
`
	goldenASCII = `Remote 1: registry-1.docker.io (hub)
  + resolve  registry-1.docker.io -> 192.0.2.1 (12 ms)
  x tls      signed by B?cher CA, which this machine does not trust (31 s)
             -> Set REGISTRY_PROXY_CA to a file.
  - api      not tried

Remote 2: quay.io
  + resolve  quay.io -> 192.0.2.2

This machine
  + data-dir  /var/lib/registry is writable for user 65532
  ! space     600 MiB of 8.0 GiB are free
              -> Make room.

1 check has failed, 1 warning.
`
	goldenJSON = `{
  "status": "failed",
  "local": [
    {
      "step": "data-dir",
      "status": "ok",
      "text": "/var/lib/registry is writable for user 65532",
      "tookMs": 0.1
    },
    {
      "step": "space",
      "status": "warning",
      "text": "600 MiB of 8.0 GiB are free",
      "advice": "Make room.",
      "tookMs": 0
    }
  ],
  "remotes": [
    {
      "number": 1,
      "host": "registry-1.docker.io",
      "alias": "hub",
      "image": "library/hello-world:latest",
      "status": "failed",
      "checks": [
        {
          "step": "resolve",
          "status": "ok",
          "text": "registry-1.docker.io → 192.0.2.1",
          "tookMs": 12.345
        },
        {
          "step": "tls",
          "status": "failed",
          "text": "signed by Bücher CA, which this machine does not trust",
          "advice": "Set REGISTRY_PROXY_CA to a file.",
          "tookMs": 31000
        },
        {
          "step": "api",
          "status": "skipped",
          "text": "not tried",
          "tookMs": 0
        }
      ]
    },
    {
      "number": 2,
      "host": "quay.io",
      "status": "ok",
      "checks": [
        {
          "step": "resolve",
          "status": "ok",
          "text": "quay.io → 192.0.2.2",
          "tookMs": 0
        }
      ]
    }
  ]
}`
)

func TestReport(t *testing.T) {
	for ascii, want := range map[bool]string{false: goldenText, true: goldenASCII} {
		var out bytes.Buffer
		if err := sampleReport.WriteText(&out, ascii); err != nil || out.String() != want {
			t.Errorf("ascii %v: %v\n%s\nwant\n%s", ascii, err, out.String(), want)
		}
	}
	out, err := json.MarshalIndent(sampleReport, "", "  ")
	if err != nil || string(out) != goldenJSON {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestReportSummary(t *testing.T) {
	for _, test := range []struct {
		statuses []report.Status
		want     report.Status
		text     string
	}{
		{nil, report.OK, "Everything is in order.\n"},
		{[]report.Status{report.OK, report.Skipped}, report.OK, "Everything is in order.\n"},
		{[]report.Status{report.Warning, report.OK}, report.Warning, "Nothing has failed, 1 warning.\n"},
		{[]report.Status{report.Warning, report.Failed, report.Failed, report.Warning}, report.Failed, "2 checks have failed, 2 warnings.\n"},
	} {
		var findings []report.Finding
		for _, s := range test.statuses {
			findings = append(findings, report.Finding{Status: s})
		}
		for _, r := range []report.Report{
			report.NewReport(findings, nil), report.NewReport(nil, []report.RemoteReport{{Checks: findings}}),
		} {
			var out bytes.Buffer
			if err := r.WriteText(&out, false); err != nil || r.Status != test.want || !bytes.HasSuffix(out.Bytes(), []byte(test.text)) {
				t.Errorf("%v: %v, %s, %s", test.statuses, err, r.Status, out.String())
			}
		}
	}
	if err := sampleReport.WriteText(fullDisk{}, false); !errors.Is(err, errFull) {
		t.Errorf("error %v", err)
	}
}

var errFull = errors.New("no space")

type fullDisk struct{}

// Write implements io.Writer.
func (fullDisk) Write([]byte) (int, error) { return 0, errFull }

func TestRoughly(t *testing.T) {
	for d, want := range map[time.Duration]string{
		time.Second: "1 second", -90 * time.Second: "90 seconds", 3 * time.Minute: "3 minutes", 30 * time.Hour: "30 hours", 72 * time.Hour: "3 days",
	} {
		if got := report.Roughly(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}
