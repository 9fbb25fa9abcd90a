package server

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/sirupsen/logrus"
)

// logRequest writes the line of a request in the access log.
func (s *Server) logRequest(x *exchange, r *http.Request, millis int64) {
	level := logrus.InfoLevel
	if x.err != nil && !errors.Is(x.err, errClientLeft) && (x.status >= http.StatusInternalServerError || x.failed == nil) {
		level = logrus.WarnLevel
	}
	if !s.lines.Logger.IsLevelEnabled(level) {
		return
	}
	line := s.lines.Dup()
	line.Data["method"] = r.Method
	line.Data["path"] = r.URL.Path // not the query, which might carry secrets
	line.Data["status"] = x.status
	line.Data["bytes"] = x.bytes
	line.Data["ms"] = millis
	line.Data["client"] = r.RemoteAddr
	line.Data["agent"] = r.UserAgent()
	if r.URL.RawQuery != "" {
		if ns := r.URL.Query().Get("ns"); ns != "" {
			line.Data["ns"] = fmt.Sprintf("%.100s", ns)
		}
	}
	if x.caller != nil && x.caller.Name() != "" {
		line.Data["user"] = fmt.Sprintf("%.100s", x.caller.Name())
	}
	if x.freshness.Stale != nil {
		line.Data["stale"] = x.freshness.Stale.Error()
	}
	if x.err != nil {
		line.Data[logrus.ErrorKey] = x.err
	}
	line.Log(level, "request")
}
