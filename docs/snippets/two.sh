manyheads train shop-two.yaml
manyheads ask runs/shop-two "The fork is bent and I need the bike tonight!"
