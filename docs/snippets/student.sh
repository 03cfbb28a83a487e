manyheads train student.yaml
manyheads compare runs/student runs/shop
