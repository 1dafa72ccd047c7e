"""Whether hosts are fit for cortex, before anything is changed on them: ansible/check.yml.

`questions` says what each host is asked, ansible/files/probe.py observes it there, `answers` has the shape of what
comes back, and `judgement` says what is wrong, over all hosts at once. The last is pure.
"""
