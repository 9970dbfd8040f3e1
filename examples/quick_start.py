"""The embedded model ranks two passages."""

from crossrank import CrossEncoder

model = CrossEncoder()  # the embedded crossrank-mini-en; or a checkpoint folder, a hub name, an exported artifact
passages = ["Berlin is well known for its museums.", "Berlin had a population of 3,520,031 in 2015."]
for hit in model.rank("how many people live in berlin", passages, return_documents=True):
    print(f"{hit['score']:7.3f}  {hit['text']}")
