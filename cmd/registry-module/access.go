package main

import (
	"net/http"

	stockauth "github.com/distribution/distribution/v3/registry/auth"

	"registry-module/auth"
	"registry-module/cache"
	"registry-module/config"
	"registry-module/server"
)

// wireAccess says who may pull what; nil lets everybody pull.
func wireAccess(cfg *config.Config) (server.Access, error) {
	kind := cfg.Stock.Auth.Type()
	if kind == "" || kind == "none" {
		return nil, nil
	}
	controller, err := auth.NewAccessController(kind, cfg.Stock.Auth.Parameters())
	if err != nil {
		return nil, err
	}
	return controlledAccess{controller}, nil
}

// controlledAccess is access control by one of distribution's access controllers.
type controlledAccess struct{ controller stockauth.AccessController }

// Authorize implements server.Access.
func (c controlledAccess) Authorize(r *http.Request, asked server.Asked) (server.Caller, error) {
	var access []stockauth.Access
	switch {
	case asked.Resource != "":
		access = append(access, stockauth.Access{Resource: stockauth.Resource{Type: "repository", Name: asked.Resource}, Action: "pull"})
	case asked.Catalog:
		access = append(access, stockauth.Access{Resource: stockauth.Resource{Type: "registry", Name: "catalog"}, Action: "*"})
	}
	grant, err := c.controller.Authorized(r, access...)
	if err != nil {
		return nil, err
	}
	return userCaller(grant.User.Name), nil
}

// userCaller is a user who may pull all that he is let in to.
type userCaller string

func (u userCaller) Name() string           { return string(u) }
func (userCaller) MayPull(cache.Place) bool { return true }
