namespace Godwit.Monitor;

/// <summary>A command was refused; <see cref="Exception.Message"/> is the <c>desc</c> of the reply (QMP specification, 2.4.2).</summary>
public sealed class QmpException : Exception
{
    /// <summary>Class of almost every error.</summary>
    public const string GenericError = "GenericError";

    /// <summary>Class for commands that do not exist, or not in this mode.</summary>
    public const string CommandNotFound = "CommandNotFound";

    /// <summary>Creates it with class <see cref="GenericError"/>.</summary>
    public QmpException(string description) : this(GenericError, description) { }

    /// <summary>Creates it.</summary>
    public QmpException(string errorClass, string description) : base(description) => ErrorClass = errorClass;

    /// <summary>The <c>class</c> of the reply.</summary>
    public string ErrorClass { get; }
}
