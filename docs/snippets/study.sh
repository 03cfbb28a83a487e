manyheads quickstart
manyheads study study.yaml
