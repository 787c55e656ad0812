"""What images are published into: values, protocol, and two backends for it."""
