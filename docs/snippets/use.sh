manyheads evaluate runs/shop
manyheads predict runs/shop --task topic inbox.csv --out answers.csv
manyheads ask runs/shop "My pump broke after one day."
