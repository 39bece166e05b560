namespace Godwit.VfioUser;

/// <summary>One thing that is looked at.</summary>
/// <param name="Name">Its name, group first.</param>
/// <param name="Meaning">What a right device does.</param>
/// <param name="Body">Does the looking: returns when all is right, throws <see cref="CheckException"/> else.</param>
internal sealed record Check(string Name, string Meaning, Action<Examination> Body);
