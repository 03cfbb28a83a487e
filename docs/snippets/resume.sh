manyheads train shop-two.yaml --resume
