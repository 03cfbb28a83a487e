manyheads train shop.yaml
