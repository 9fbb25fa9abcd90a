package auth

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/distribution/distribution/v3/registry/auth"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd" // registers "htpasswd"
	_ "github.com/distribution/distribution/v3/registry/auth/token"    // registers "token"
)

// NewAccessController returns the stock access controller of that type,
// "htpasswd" or "token", with the parameters that the auth section of
// config.yml has for it. Whatever is wrong with them is an error, never a panic.
//
// Unlike the stock registry, it makes no htpasswd file where there is none: that
// one would hold a single password that nobody has chosen, and that is known
// from the log alone.
func NewAccessController(controller string, params map[string]any) (_ auth.AccessController, err error) {
	defer func() {
		// The controllers assert the types of some parameters without checking.
		if p := recover(); p != nil {
			err = fmt.Errorf("auth: setting up %q: %v", controller, p)
		}
	}()
	if path, ok := params["path"].(string); ok && controller == "htpasswd" {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("auth: setting up %q: there is no file %s: make one with `htpasswd -Bc %s <user>`", controller, path, path)
		}
	}
	ac, err := auth.GetAccessController(controller, params)
	if err != nil {
		return nil, fmt.Errorf("auth: setting up %q: %w", controller, err)
	}
	return ac, nil
}
