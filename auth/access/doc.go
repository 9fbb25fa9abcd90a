// Package access decides who may pull what.
package access
