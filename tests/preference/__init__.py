"""Tests of jaxkit."""
