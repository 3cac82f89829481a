"""The controller: one per cluster, decides what every node holds and says how far it is. Never imports the agent."""
