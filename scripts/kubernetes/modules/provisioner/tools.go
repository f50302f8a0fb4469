//go:build tools

// Package tools names the program that is built from here, so that go.mod keeps what it needs.
package tools

import _ "github.com/rancher/local-path-provisioner"
